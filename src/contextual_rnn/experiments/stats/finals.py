"""The final metrics of runs as text, a line for all runs that differ only in the seed."""

from __future__ import annotations

from collections.abc import Sequence

from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.runs.summary import summary
from contextual_rnn.experiments.stats.intervals import median_interval
from contextual_rnn.experiments.text_table import aligned


def table(runs: Sequence[Run]) -> str:
    """Medians over seeds of the finished runs with intervals of 95 %, and the options in which they differ."""
    rows = summary(list(runs))
    names = list(dict.fromkeys(name for row in rows for name in row["options"]))
    options = [name for name in names if len({repr(row["options"].get(name)) for row in rows}) > 1]
    metrics = list(dict.fromkeys(name for row in rows for name in row["final"]))
    lines = [[*options, "seeds", "diverged", *(f"median {name}" for name in metrics)]]
    for row in rows:
        counts = [str(len(row[name])) for name in ("seeds", "diverged")]
        medians = [_median(row["final"][name]) if name in row["final"] else "-" for name in metrics]
        lines.append([*(str(row["options"].get(name, "-")) for name in options), *counts, *medians])
    return "\n".join(aligned(lines))


def _median(values: Sequence[float]) -> str:
    """As "0.25 (0.2 to 0.31)"; of a single seed without an interval."""
    estimate, low, high = median_interval(values)
    return f"{estimate:.6g}" if len(values) < 2 else f"{estimate:.6g} ({low:.4g} to {high:.4g})"

"""Runs as a table: for the eye, a line for runs that differ in the seed alone; for programs, Parquet, a row a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.results import Run, config_to_dict, identity, summary

PARQUET = "results.parquet"


def table(runs: Sequence[Run]) -> str:
    """Medians over seeds of the finished runs, with the options in which they differ."""
    rows = summary(list(runs))
    names = list(dict.fromkeys(name for row in rows for name in row["options"]))
    options = [name for name in names if len({repr(row["options"].get(name)) for row in rows}) > 1]
    metrics = list(dict.fromkeys(name for row in rows for name in row["median"]))
    lines = [[*options, "seeds", "diverged", *(f"median {name}" for name in metrics)]]
    for row in rows:
        counts = [str(len(row[name])) for name in ("seeds", "diverged")]
        medians = [f"{row['median'][name]:.6g}" if name in row["median"] else "-" for name in metrics]
        lines.append([*(str(row["options"].get(name, "-")) for name in options), *counts, *medians])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def status(run: Run) -> str:
    """finished, diverged or unfinished."""
    return "unfinished" if run.result is None else "finished" if run.converged else "diverged"


def write_parquet(runs: Sequence[Run], path: Path) -> None:
    """One row a run: folder, identity, status, seconds, every option, every final metric, every metric over epochs.

    Final metrics are named final.NAME and are empty for runs that have not finished or diverged; those over epochs are
    lists, named epochs.NAME. What a task does not have is empty. Raises ImportError where pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('pyarrow is not installed: pip install "contextual-rnn[sweeps]"') from error
    rows = [_row(run) for run in runs]
    names = dict.fromkeys(name for row in rows for name in row)
    data = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), data)
    write_whole(path, data.getvalue())


def _row(run: Run) -> dict[str, Any]:
    result = run.result or {}
    epochs = {
        f"epochs.{name}": [line.get(name) for line in run.metrics]
        for name in dict.fromkeys(name for line in run.metrics for name in line)
    }
    return {
        "folder": str(run.folder),
        "identity": identity(run.config),
        "status": status(run),
        "seconds": result.get("seconds"),
        **config_to_dict(run.config),
        **({f"final.{name}": value for name, value in result["final"].items()} if run.converged else {}),
        **epochs,
    }

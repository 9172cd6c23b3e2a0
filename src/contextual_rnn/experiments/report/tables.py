"""The report's tables: final figures of every run, what the seeds of a group say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.evidence import evidence
from contextual_rnn.experiments.stats.groups import Group, differing
from contextual_rnn.experiments.stats.intervals import Interval
from contextual_rnn.experiments.stats.wording import STARTS, TASKS, option_text, words

# Options with a column of their own in the table of final figures, and the metrics there.
OPTIONS = {"retrieval": ("state", "start", "timing", "leaves"), "decay": ("state",)}
METRICS = {
    "retrieval": {"validation_accuracy": "accuracy", "validation_log_likelihood": "log-likelihood"},
    "decay": {
        "validation_squared_error": "squared error",
        "free_running_squared_error": "free-running error",
        "mean_scale": "mean sigma",
    },
}


def final_figures(task: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Final figures of one task; `texts` columns of words, then columns of numbers."""
    texts = [*map(words, OPTIONS[task]), "other options"]
    numbers = ["seed", "epochs", "parameters", *METRICS[task].values(), "minutes"]
    rows = [_row(task, run) for run in runs]
    return {"title": TASKS[task], "header": [*texts, *numbers], "texts": len(texts), "rows": rows}


def _row(task: str, run: Run) -> list[str]:
    options = {field.name: (getattr(run.config, field.name), field.default) for field in dataclasses.fields(run.config)}
    others = [
        f"{words(name)} {option_text(value)}"
        for name, (value, default) in options.items()
        if value != default and name not in (*OPTIONS[task], "seed", "epochs")
    ]
    final, seconds = _final(run), (run.result or (run.metrics or [{}])[-1]).get("seconds")
    return [
        *(str(options[name][0]) for name in OPTIONS[task]),
        ", ".join(others) or "-",
        str(run.config.seed),
        epochs_of(run) + ("" if run.converged else ", diverged" if run.result is not None else ", unfinished"),
        _number((run.result or {}).get("parameters"), ","),
        *(_number(final.get(name), ".2%" if name == "validation_accuracy" else ".4g") for name in METRICS[task]),
        _number(None if seconds is None else seconds / 60, ".1f"),
    ]


def over_seeds(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What the seeds of each group say, with intervals; groups of single seeds are left out."""
    retrieval = [group for group in groups if group.runs[0].task == "retrieval"]
    apart = differing(retrieval) if retrieval else []
    tables = []
    for group in groups:
        rows = [
            [
                row.state,
                words(row.measure),
                str(len(row.seeds)),
                *(_interval(interval, row.measure) for interval in (row.value, row.gain)),
                _interval(row.improvement, ""),
            ]
            for row in evidence([group])
        ]
        if rows:
            task = group.runs[0].task
            title = [TASKS[task], STARTS.get(group.settings.get("start", ""), "")]
            title += [f"{words(name)} {option_text(group.settings[name])}" for name in apart if name in group.settings]
            header = ["state", "measure", "seeds", "median", "gain over zero", "probability of improvement"]
            tables.append({"title": ", ".join(filter(None, title)), "header": header, "texts": 2, "rows": rows})
    return tables


def _interval(interval: Interval | None, measure: str) -> str:
    if interval is None:
        return "-"
    form = ".2%" if measure == "validation_accuracy" else ".4g"
    estimate, low, high = ("never" if math.isinf(value) else _number(value, form) for value in interval)
    return f"{estimate} ({low} to {high})" if not math.isnan(interval.low) else f"{estimate} (one seed)"


def _final(run: Run) -> dict[str, float]:
    """The last metrics of a run, finished or not."""
    return run.result["final"] if run.result is not None else (run.metrics or [{}])[-1]


def epochs_of(run: Run) -> str:
    """As "7 of 30"."""
    return f"{int(_final(run).get('epoch', 0))} of {run.config.epochs}"


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return format(value, form) if math.isfinite(value) else "non-finite"

"""Runs as data: those that differ only in the seed together; as Parquet, a row for each run."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextual_rnn._whole_file import unicode_text, write_whole
from contextual_rnn.experiments.config import config_to_dict, identity
from contextual_rnn.experiments.runs.folder import Run

PARQUET = "results.parquet"


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
        "folder": unicode_text(run.folder),
        "identity": identity(run.config),
        "status": status(run),
        "seconds": result.get("seconds"),
        **config_to_dict(run.config),
        **({f"final.{name}": value for name, value in result["final"].items()} if run.converged else {}),
        **epochs,
    }


def summary(runs: list[Run]) -> list[dict[str, Any]]:
    """Finished runs, those that differ in the seed alone together: options, seeds, final metrics of each, medians.

    Seeds that diverged are named under "diverged" and are left out of the rest.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.result is not None:
            options = {name: value for name, value in config_to_dict(run.config).items() if name != "seed"}
            groups.setdefault(json.dumps(options), []).append(run)
    rows = []
    for options, group in groups.items():
        group.sort(key=lambda run: run.config.seed)
        results = [run.result for run in group if run.result is not None]
        good = [run for run in group if run.converged]
        finals = [run.result["final"] for run in good if run.result is not None]
        metrics = [name for name in (finals or [{}])[0] if name not in ("epoch", "step")]
        metrics = [name for name in metrics if all(name in final for final in finals)]
        rows.append(
            {
                "options": json.loads(options),
                "seeds": [run.config.seed for run in good],
                "diverged": [run.config.seed for run in group if not run.converged],
                "final": {name: [final[name] for final in finals] for name in metrics},
                "median": {name: statistics.median(final[name] for final in finals) for name in metrics},
                "commands": [result["command"] for result in results],
                "versions": results[0]["versions"],
            }
        )
    return rows

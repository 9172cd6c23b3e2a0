"""A run's folder: what is written there, and how it is read back.

config.json          the task and every option
metrics.jsonl        one JSON object per finished epoch
weights.safetensors  the weights after the last good epoch, the config in its metadata
result.json          final metrics, seconds, versions, command; exists only when the run has finished
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.config import CONFIGS, Config

CONFIG, METRICS, WEIGHTS, RESULT = "config.json", "metrics.jsonl", "weights.safetensors", "result.json"


@dataclass(frozen=True)
class Run:
    """One run as read from its folder; `result` is None while it is unfinished."""

    folder: Path
    task: str
    config: Config
    metrics: list[dict[str, float]]
    result: dict[str, Any] | None


def task_name(config: Config) -> str:
    return next(name for name, kind in CONFIGS.items() if isinstance(config, kind))


def config_to_dict(config: Config) -> dict[str, Any]:
    return {"task": task_name(config), **dataclasses.asdict(config)}


def config_from_dict(options: dict[str, Any]) -> Config:
    """The configuration written as `options`.

    Raises ValueError for an unknown task or option, listing those there are.
    """
    options = dict(options)
    task = options.pop("task", None)
    if task not in CONFIGS:
        raise ValueError(f"task: expected one of {', '.join(CONFIGS)}, got {task!r}")
    known = {field.name for field in dataclasses.fields(CONFIGS[task])}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"options of {task}: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    return CONFIGS[task](**options)


def read_run(folder: Path) -> Run:
    """Read one run; raises ValueError where `folder` holds none."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"folder: expected a run (a folder with {CONFIG}), got {folder}")
    config = config_from_dict(json.loads((folder / CONFIG).read_text()))
    metrics_file, result_file = folder / METRICS, folder / RESULT
    metrics = _read_lines(metrics_file) if metrics_file.is_file() else []
    result = json.loads(result_file.read_text()) if result_file.is_file() else None
    return Run(folder, task_name(config), config, metrics, result)


def _read_lines(path: Path) -> list[dict[str, float]]:
    """Whole lines alone: a run that is being written, or was killed, may end in half of one."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_runs(folder: Path) -> list[Run]:
    """Every run in `folder` or below it, sorted by path; raises ValueError where there is none."""
    runs = [read_run(path.parent) for path in sorted(Path(folder).rglob(CONFIG))]
    if not runs:
        raise ValueError(f"folder: expected runs (folders with {CONFIG}), got none in {folder}")
    return runs


def write_json(path: Path, value: object) -> None:
    """Write beside and rename, so that a reader never sees half a file."""
    beside = path.with_name(path.name + ".writing")
    beside.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(beside, path)


def summary(runs: list[Run]) -> list[dict[str, Any]]:
    """Finished runs, those that differ in the seed alone together: options, seeds, final metrics of each, medians."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.result is not None:
            options = {name: value for name, value in config_to_dict(run.config).items() if name != "seed"}
            groups.setdefault(json.dumps(options), []).append(run)
    rows = []
    for options, group in groups.items():
        group.sort(key=lambda run: run.config.seed)
        finals = [run.result["final"] for run in group if run.result is not None]
        metrics = [name for name in finals[0] if name not in ("epoch", "step") and all(name in f for f in finals)]
        rows.append(
            {
                "options": json.loads(options),
                "seeds": [run.config.seed for run in group],
                "final": {name: [final[name] for final in finals] for name in metrics},
                "median": {name: statistics.median(final[name] for final in finals) for name in metrics},
                "commands": [run.result["command"] for run in group if run.result is not None],
                "versions": group[0].result["versions"] if group[0].result else {},
            }
        )
    return rows

"""A run's folder: what is written there, and how it is read back.

config.json          the task and every option
metrics.jsonl        one JSON object per finished epoch
weights.safetensors  the weights after the last good epoch, the config in its metadata
checkpoint.safetensors  where an unfinished run goes on
result.json          final metrics, seconds, versions, command; exists only when the run has finished

A run whose loss stopped being a finite number has finished too: its result says so under "diverged", and its final
metrics are the epoch and step of the weights alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import contextual_rnn
from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config import CONFIGS, Config

CONFIG, METRICS, WEIGHTS, RESULT = "config.json", "metrics.jsonl", "weights.safetensors", "result.json"
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Run:
    """One run as read from its folder; `result` is None while it is unfinished."""

    folder: Path
    task: str
    config: Config
    metrics: list[dict[str, float]]
    result: dict[str, Any] | None

    @property
    def converged(self) -> bool:
        """Whether the run has finished and did not diverge."""
        return self.result is not None and "diverged" not in self.result


def versions() -> dict[str, str]:
    """What must be the same everywhere for the same numbers."""
    return {
        "contextual_rnn": contextual_rnn.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def task_name(config: Config) -> str:
    return next(name for name, kind in CONFIGS.items() if isinstance(config, kind))


def config_to_dict(config: Config) -> dict[str, Any]:
    return {"task": task_name(config), **dataclasses.asdict(config)}


def identity(config: Config) -> str:
    """Twelve hexadecimal digits that tell this configuration from every other: a hash of its options.

    Options at their default are left out, so that a later version may add one and still know its old runs.
    """
    chosen = {
        field.name: type(field.default)(value) if isinstance(field.default, float) else value
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != field.default
    }
    text = json.dumps({"task": task_name(config), **chosen}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


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


def read_config(folder: Path) -> Config:
    """The configuration of the run in `folder`; raises ValueError where there is none."""
    try:
        return config_from_dict(read_json(folder / CONFIG))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"folder: expected a run (a folder with {CONFIG}), got {folder}") from error


def read_run(folder: Path) -> Run:
    """Read one run; raises ValueError where `folder` holds none."""
    folder = Path(folder)
    config = read_config(folder)
    metrics_file, result_file = folder / METRICS, folder / RESULT
    metrics = _read_lines(metrics_file) if metrics_file.is_file() else []
    result = read_json(result_file) if result_file.is_file() else None
    return Run(folder, task_name(config), config, metrics, result)


def _read_lines(path: Path) -> list[dict[str, float]]:
    """Whole lines alone: folders of older versions may end in half of one."""
    return [_parsed(line, path) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError, which names the file, where it holds no JSON object."""
    return _parsed(path.read_text(errors="replace"), path)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"file: expected JSON in {path}, got something else: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"file: expected a JSON object in {path}, got {type(found).__name__}")
    return found


def read_runs(folder: Path) -> list[Run]:
    """Every run in `folder` or below it, sorted by path; raises ValueError where there is none."""
    runs = [read_run(path.parent) for path in sorted(Path(folder).rglob(CONFIG))]
    if not runs:
        raise ValueError(f"folder: expected runs (folders with {CONFIG}), got none in {folder}")
    return runs


def write_json(path: Path, value: object) -> None:
    """Write JSON that a reader sees whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def summary(runs: list[Run]) -> list[dict[str, Any]]:
    """Finished runs, those that differ in the seed alone together: options, seeds, final metrics of each, medians.

    Seeds that diverged are named under "diverged" and have no part in the rest.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.result is not None:
            options = {name: value for name, value in config_to_dict(run.config).items() if name != "seed"}
            groups.setdefault(json.dumps(options), []).append(run)
    rows = []
    for options, group in groups.items():
        group.sort(key=lambda run: run.config.seed)
        found = [run.result for run in group if run.result is not None]
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
                "commands": [result["command"] for result in found],
                "versions": found[0]["versions"],
            }
        )
    return rows

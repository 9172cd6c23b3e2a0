"""A run's folder: the files in it, and how they are read.

config.json          the task and every option
metrics.jsonl        one JSON object per finished epoch
weights.safetensors  the weights after the last good epoch, the config in its metadata
checkpoint.safetensors  from which an unfinished run continues
result.json          final metrics, seconds, versions, command; exists only when the run has finished

A run whose loss is no longer finite counts as finished: its result says so under "diverged", and its final metrics are
only the epoch and step of the weights.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import contextual_rnn
from contextual_rnn._numbers import shortened
from contextual_rnn._whole_file import TEMPORARY, unicode_text, write_whole
from contextual_rnn.experiments.config import (
    Config,
    chosen,
    config_from_dict,
    config_to_dict,
    entry_of,
    named_file,
    option_types,
    task_name,
)
from contextual_rnn.experiments.runs.json_file import check, damaged, parse, read_json, read_text

CONFIG, METRICS, WEIGHTS, RESULT = "config.json", "metrics.jsonl", "weights.safetensors", "result.json"
CHECKPOINT = "checkpoint.safetensors"

# Called with the error of a file or folder that is then left out.
Refused = Callable[[Exception], object]


def raise_it(error: Exception) -> None:
    raise error


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


def folder_of(folder: object) -> Path:
    """The folder that an argument names. Raises TypeError for what is no path."""
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder: expected the path of a folder, got {shortened(folder)}")
    return Path(folder)


def versions() -> dict[str, str]:
    """Versions that must be equal everywhere for equal numbers."""
    return {
        "contextual_rnn": contextual_rnn.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def read_config(folder: Path) -> Config:
    """The configuration of the run in `folder`. Raises ValueError, which names the file, where there is none."""
    path = folder_of(folder) / CONFIG
    if not os.path.lexists(path):
        raise ValueError(f"folder: expected a run (a folder with {CONFIG}), got {folder}")
    return parsed_config(read_json(path), path)


def parsed_config(options: dict[str, Any], path: Path) -> Config:
    """`config_from_dict` of `options`, read from `path`. Raises ValueError, which names the file."""
    try:
        return config_from_dict(options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"file: expected a configuration in {path}, got one that is refused: {error}") from error


def checked_result(result: dict[str, Any], config: Config, path: Path) -> dict[str, Any]:
    """`result`, read from `path`. Raises ValueError, which names the file, where it is not a result of `config`."""
    check(result, _RESULT, path)
    if "diverged" not in result:
        check(result["final"], {"epoch": int, entry_of(config).metrics[0].name: float}, path, "final")
        if result["final"]["epoch"] != config.epochs:
            raise damaged(path, f"epoch {config.epochs}, the last, for final", str(result["final"]["epoch"]))
    return result


_RESULT = {
    "final": {str: float, "epoch?": int},
    "diverged?": str,
    "seconds": float,
    "processes?": int,
    "parameters?": int,
    "command": str,
    "versions": {str: str},
}


def read_run(folder: Path) -> Run:
    """Read one run. Raises ValueError, which names the file, where `folder` holds none or a file is damaged."""
    folder = folder_of(folder)
    config = read_config(folder)
    metrics_file, result_file = folder / METRICS, folder / RESULT
    metrics = _read_metrics(metrics_file, config) if os.path.lexists(metrics_file) else []
    result = checked_result(read_json(result_file), config, result_file) if os.path.lexists(result_file) else None
    run = Run(folder, task_name(config), config, metrics, result)
    if run.converged and len(metrics) != config.epochs + 1:
        expected = f"{config.epochs + 1} lines of a finished run of {config.epochs} epochs"
        raise damaged(metrics_file, expected, str(len(metrics)))
    return run


def _read_metrics(path: Path, config: Config) -> list[dict[str, float]]:
    """Complete lines only: files of older versions may end in half a line."""
    lines = [parse(line, path) for line in read_text(path).split("\n")[:-1]]
    for epoch, line in enumerate(lines):
        check(line, {str: float, "epoch": int}, path, f"line {epoch + 1}")
        if line["epoch"] != epoch or epoch > config.epochs:
            raise damaged(path, f"epoch {epoch} of {config.epochs} in line {epoch + 1}", str(line["epoch"]))
    return lines


def has_weights(run: Run) -> bool:
    """Whether there is a file of weights, or something in its place."""
    return os.path.lexists(run.folder / WEIGHTS)


def run_folders(folder: Path, refused: Refused = lambda error: None) -> list[Path]:
    """Every folder at or below `folder` with one of a run's files, sorted; links to folders are not followed.

    The error of a folder that cannot be listed goes to `refused`.
    """

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # another process has removed it
            refused(error)

    files = {CONFIG, METRICS, CHECKPOINT, RESULT}
    paths = [Path(p) for p, folders, names in os.walk(folder, onerror=failed) if not files.isdisjoint(folders + names)]
    return sorted(path for path in paths if path.name not in files)


def read_runs(folder: Path, refused: Refused = raise_it) -> list[Run]:
    """Every run in `folder` or below it, sorted by path.

    The error of a damaged run, which names its file, goes to `refused`, which by default raises it; the other runs are
    read. Raises ValueError where there is no run that can be read.
    """
    runs: list[Run] = []
    folders = run_folders(folder_of(folder), refused)
    for path in folders:
        try:
            runs.append(read_run(path))
        except (ValueError, OSError) as error:
            refused(error)
    if not runs:
        received = f"{len(folders)} that cannot be read" if folders else "none"
        raise ValueError(f"folder: expected runs (folders with {CONFIG}), got {received} in {folder}")
    return runs


def write_json(path: Path, value: object) -> None:
    """Write JSON that a reader sees whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def finished(config: Config, folder: Path) -> bool:
    """Whether `folder` holds the finished run of `config`; raises ValueError where it holds anything else."""
    if not folder.exists() or all(path.name.endswith(TEMPORARY) for path in folder.iterdir()):
        return False
    if not (folder / CONFIG).is_file():
        raise ValueError(f"folder: expected a new, empty or matching run folder, got other files in {folder}")
    if differ := differing_options(read_config(folder), config):
        raise ValueError(f"folder: expected a run of this configuration, got one that differs in {differ}: {folder}")
    return (folder / RESULT).is_file()


def differing_options(one: Config, other: Config) -> str:
    """The names of the options, and of the task, in which two configurations differ."""
    left, right = config_to_dict(one), config_to_dict(other)
    return ", ".join(name for name in {**left, **right} if left.get(name) != right.get(name))


def command(config: Config, folder: Path | str) -> str:
    """The command line that trains `config` into `folder`; options at their default are left out."""
    task = task_name(config)
    words = ["contextual-rnn", "train", named_file(task) or task, *option_words(type(config), chosen(config))]
    return shlex.join([*words, "--out", unicode_text(folder)])


def option_words(kind: type[Config], options: Mapping[str, Any]) -> list[str]:
    """Options of a kind of configuration as the words of a command line."""
    return [word for name, value in options.items() for word in option_types(kind)[name].written(name, value)]

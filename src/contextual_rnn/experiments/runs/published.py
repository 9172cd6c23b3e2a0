"""Finished runs as one small JSON file, for `results/`: every seed's figures and the commands, without the weights."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config import config_to_dict, task_name
from contextual_rnn.experiments.runs.folder import (
    CONFIG,
    Refused,
    Run,
    checked_result,
    parsed_config,
    raise_it,
    read_runs,
    run_folders,
)
from contextual_rnn.experiments.runs.json_file import check, damaged, parse, read_text

DIGITS = 4  # of the metrics of every epoch
NOT_KEPT = ("epoch", "step", "seconds", "train_loss")


def publish(runs: Iterable[Run], path: Path) -> None:
    """Write the finished ones of `runs` into `path`; raises ValueError where there is none."""
    rows = [_published(run) for run in runs if run.result is not None]
    if not rows:
        raise ValueError("runs: expected finished runs, got none")
    rows.sort(key=lambda run: (run["options"]["state"], run["options"]["seed"], run["command"]))
    options = [run["options"].items() for run in rows]
    shared = dict(item for item in options[0] if all(item in others for others in options))
    for run in rows:
        run["options"] = {name: value for name, value in run["options"].items() if name not in shared}
    head = {"options": shared}
    if all(run["versions"] == rows[0]["versions"] for run in rows):
        head["versions"] = rows[0]["versions"]
        for run in rows:
            del run["versions"]
    begin = json.dumps(head).removesuffix("}")
    lines = ",\n  ".join(json.dumps(run) for run in rows)
    write_whole(path, f'{begin},\n "runs": [\n  {lines}\n ]}}\n')


def read_results(folder: Path, refused: Refused = raise_it) -> list[Run]:
    """The runs below `folder`. Where it has none, those of the files in it that `publish` wrote.

    Folders of published runs are those of their commands. The error of a damaged run or file, which names it, goes to
    `refused`, which by default raises it. Raises ValueError for a file, and where there is nothing that can be read.
    """
    if Path(folder).is_file():
        raise ValueError(f"folder: expected a folder with runs or published results, got the file {folder}")
    if run_folders(folder):
        return read_runs(folder, refused)
    runs: list[Run] = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = parse(read_text(path), path)
            if isinstance(content, dict) and "runs" in content:
                check(content, {"options": {}, "versions?": {str: str}, "runs": [{"options": {}}]}, path)
                versions = {"versions": content["versions"]} if "versions" in content else {}
                runs += [_run(content["options"], {**run, **versions}, path) for run in content["runs"]]
        except ValueError as error:
            refused(error)
    if not runs:
        raise ValueError(f"folder: expected runs (folders with {CONFIG}) or published results, got none in {folder}")
    return runs


def _published(run: Run) -> dict[str, Any]:
    assert run.result is not None
    seen = Counter(name for line in run.metrics for name in line)
    often = [name for name, lines in seen.items() if lines > 1]
    names = [name for name in often if name not in NOT_KEPT]
    return {
        "options": config_to_dict(run.config),
        "metrics": {name: [_rounded(line.get(name)) for line in run.metrics] for name in names},
        **run.result,
        "command": relative_command(run.result["command"]),
    }


def relative_command(command: str) -> str:
    """The command with a relative folder: a sweep's runs have an absolute path, which is useless on other machines."""
    words, _, folder = command.rpartition("--out ")
    return f"{words}--out {Path('runs', *Path(folder).parts[-2:])}" if Path(folder).is_absolute() else command


def _run(shared: dict[str, Any], published: dict[str, Any], path: Path) -> Run:
    published = dict(published)
    config = parsed_config({**shared, **published.pop("options")}, path)
    check(published, {"metrics": {str: [(float, None)]}}, path)
    metrics = published.pop("metrics")
    epochs = max(map(len, metrics.values()), default=0)
    lines: list[dict[str, float]] = [{"epoch": epoch} for epoch in range(epochs)]
    for name, values in metrics.items():
        if len(values) != epochs:
            raise damaged(path, f"{epochs} values of {name}", str(len(values)))
        for line, value in zip(lines, values, strict=True):
            if value is not None:
                line[name] = value
    result = checked_result(published, config, path)
    return Run(Path(result["command"].rpartition("--out ")[2]), task_name(config), config, lines, result)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")

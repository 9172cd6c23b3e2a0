"""Finished runs as one small JSON file, for `results/`: every seed's figures and the commands, without the weights.

python -m contextual_rnn.experiments.published publish --folder runs/NAME --file results/NAME.json
python -m contextual_rnn.experiments.published all --folder runs --results results    every experiment of evidence.sh
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tyro

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.calibration import calibration
from contextual_rnn.experiments.comparison import ACCURACY, SHORT, groups_of
from contextual_rnn.experiments.config import STATES
from contextual_rnn.experiments.intervals import median_interval
from contextual_rnn.experiments.json_file import check, damaged, parse, read_json, read_text
from contextual_rnn.experiments.measures import values_by_seed
from contextual_rnn.experiments.results import (
    CONFIG,
    Refused,
    Run,
    checked_result,
    config_to_dict,
    parsed_config,
    raise_it,
    read_runs,
    run_folders,
    task_name,
)
from contextual_rnn.experiments.studies import AUTHORS, CALIBRATED, DECAY
from contextual_rnn.experiments.sweep import SWEEP
from contextual_rnn.experiments.trained import Trained, trained

DIGITS = 4  # of what is kept of every epoch
NOT_KEPT = ("epoch", "step", "seconds", "train_loss")
HEADER = ("start", "state, timing", "epochs", "seeds", *STATES[:3])


def publish(runs: Iterable[Run], path: Path) -> None:
    """Write the finished ones of `runs` into `path`; raises ValueError where there is none."""
    found = [_published(run) for run in runs if run.result is not None]
    if not found:
        raise ValueError("runs: expected finished runs, got none")
    found.sort(key=lambda run: (run["options"]["state"], run["options"]["seed"], run["command"]))
    shared = {
        name: value for name, value in found[0]["options"].items() if all(_has(run, name, value) for run in found)
    }
    for run in found:
        run["options"] = {name: value for name, value in run["options"].items() if name not in shared}
    head = {"options": shared}
    if all(run["versions"] == found[0]["versions"] for run in found):
        head["versions"] = found[0]["versions"]
        for run in found:
            del run["versions"]
    begin = json.dumps(head).removesuffix("}")
    lines = ",\n  ".join(json.dumps(run) for run in found)
    write_whole(path, f'{begin},\n "runs": [\n  {lines}\n ]}}\n')


def read_published(path: Path) -> list[Run]:
    """The runs of a file that `publish` wrote; their folders are those of their commands.

    Raises ValueError, which names the file, for any other.
    """
    return _runs_of(read_json(Path(path)), Path(path))


def _runs_of(content: dict[str, Any], path: Path) -> list[Run]:
    check(content, {"options": {}, "versions?": {str: str}, "runs": [{"options": {}}]}, path)
    versions = {"versions": content["versions"]} if "versions" in content else {}
    return [_run(content["options"], {**run, **versions}, path) for run in content["runs"]]


def publish_all(folder: Path, results: Path) -> list[Path]:
    """Publish every sweep directly below `folder` that has finished runs, and what a report makes of their weights.

    Calibration comes from the sweep decay-calibration, diagnostics and playground from the paper's own settings.
    Returns the files of runs. Raises ValueError, which names the file, for a damaged run.
    """
    written, paper = [], []
    for sweep in sorted(path.parent for path in folder.glob(f"*/{SWEEP}")):
        runs = [run for run in read_runs(sweep) if run.result is not None] if run_folders(sweep) else []
        if not runs:
            continue
        if sweep.name == CALIBRATED:
            Trained(calibration(groups_of(runs)), [], None).write(results)
            continue
        publish(runs, results / f"{sweep.name}.json")
        written.append(results / f"{sweep.name}.json")
        paper += runs if sweep.name in (AUTHORS, DECAY) else []
    decay = groups_of([run for run in paper if run.task == "decay"])
    retrieval = groups_of([run for run in paper if run.task == "retrieval"])
    dataclasses.replace(trained(decay, [*retrieval, *decay]), calibration=[]).write(results)
    return written


def read_results(folder: Path, refused: Refused = raise_it) -> list[Run]:
    """The runs below `folder`, or where it has none those of the files in it that `publish` wrote.

    The error of a damaged run or file, which names it, goes to `refused`, which by default raises it. Raises ValueError
    where there is nothing that can be read.
    """
    if run_folders(folder):
        return read_runs(folder, refused)
    runs: list[Run] = []
    for path, content in _contents(folder, refused).items():
        try:
            runs += _runs_of(content, path)
        except ValueError as error:
            refused(error)
    if not runs:
        raise ValueError(f"folder: expected runs (folders with {CONFIG}) or published results, got none in {folder}")
    return runs


def published_files(folder: Path) -> list[Path]:
    """The files in `folder` that `publish` wrote, among others that it did not."""
    return list(_contents(folder, raise_it))


def _contents(folder: Path, refused: Refused) -> dict[Path, dict[str, Any]]:
    contents: dict[Path, dict[str, Any]] = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = parse(read_text(path), path)
        except ValueError as error:
            refused(error)
        else:
            if isinstance(content, dict) and "runs" in content:
                contents[path] = content
    return contents


def retrieval_table(runs: Sequence[Run]) -> str:
    """Final validation accuracy of finished retrieval runs as a table in Markdown, a line a group of settings.

    Medians over seeds with their bootstrap interval; runs of other epochs stand in other lines.
    """
    by_epochs: dict[int, list[Run]] = {}
    for run in runs:
        if run.task == "retrieval":
            by_epochs.setdefault(run.config.epochs, []).append(run)
    rows = [
        [
            SHORT[group.settings["start"]],
            f"{group.settings['leaves'].replace('h+a', '(h, A)')}, {group.settings['timing']}",
            str(epochs),
            _range(len(values_by_seed(group.of_state(state), ACCURACY)) for state in group.accuracies()),
            *(_accuracy(group.of_state(state)) for state in STATES[:3]),
        ]
        for epochs in sorted(by_epochs, reverse=True)
        for group in groups_of(by_epochs[epochs])
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER), *rows))


def _published(run: Run) -> dict[str, Any]:
    assert run.result is not None
    seen = Counter(name for line in run.metrics for name in line)
    often = [name for name, lines in seen.items() if lines > 1]
    names = [name for name in often if name not in NOT_KEPT]
    return {
        "options": config_to_dict(run.config),
        "metrics": {name: [_rounded(line.get(name)) for line in run.metrics] for name in names},
        **run.result,
        "command": _relative(run.result["command"]),
    }


def _relative(command: str) -> str:
    """A sweep's runs know their folder by its whole path, which means nothing elsewhere."""
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


def _has(run: dict[str, Any], name: str, value: object) -> bool:
    return name in run["options"] and run["options"][name] == value


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _range(numbers: Iterable[int]) -> str:
    counts = sorted(set(numbers))
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""


def _accuracy(runs: Sequence[Run]) -> str:
    values = list(values_by_seed(runs, ACCURACY).values())
    if not values:
        return ""
    estimate, low, high = median_interval(values)
    return f"{estimate:.2%}" + (f" ({low:.2%} to {high:.2%})" if not math.isnan(low) else "")


def _publish(folder: Path, file: Path) -> None:
    """Write the finished runs below `folder` into `file`."""
    publish(read_runs(folder), file)


def _all(folder: Path = Path("runs"), results: Path = Path("results")) -> None:
    """Write every sweep below `folder` that has finished runs, as those of results/evidence.sh."""
    print(*publish_all(folder, results), sep="\n")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"publish": _publish, "all": _all})

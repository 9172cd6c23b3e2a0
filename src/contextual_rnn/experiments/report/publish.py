"""Finished sweeps into `results/`: every seed's figures and the commands, without the weights.

python -m contextual_rnn.experiments.report.publish publish --folder runs/NAME --file results/NAME.json
python -m contextual_rnn.experiments.report.publish all --folder runs --results results    all of evidence.sh
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import tyro

from contextual_rnn.experiments.config import STATES
from contextual_rnn.experiments.report.from_weights import Trained, trained
from contextual_rnn.experiments.runs.folder import (
    Run,
    read_runs,
    run_folders,
)
from contextual_rnn.experiments.runs.published import publish
from contextual_rnn.experiments.stats.groups import ACCURACY, groups_of
from contextual_rnn.experiments.stats.intervals import median_interval
from contextual_rnn.experiments.stats.measures import values_by_seed
from contextual_rnn.experiments.stats.wording import SHORT
from contextual_rnn.experiments.studies.calibration import calibration
from contextual_rnn.experiments.studies.catalogue import AUTHORS, CALIBRATED, DECAY
from contextual_rnn.experiments.sweeps.sweep import SWEEP

HEADER = ("start", "state, timing", "epochs", "seeds", *STATES[:3])


def publish_all(folder: Path, results: Path) -> list[Path]:
    """Publish every sweep directly below `folder` with finished runs, and what a report computes from their weights.

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


def retrieval_table(runs: Sequence[Run]) -> str:
    """Final validation accuracy of finished retrieval runs as a table in Markdown, a line a group of settings.

    Medians over seeds with their bootstrap interval; runs of other epochs are in other lines.
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

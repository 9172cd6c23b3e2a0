"""Finished sweeps into `results/`: every seed's figures and the commands, without the weights.

python -m contextual_rnn.experiments.report.publish publish --folder runs/NAME --file results/NAME.json
python -m contextual_rnn.experiments.report.publish all --folder runs --results results    all of evidence.sh
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from contextual_rnn.experiments.report.from_weights import Trained, trained
from contextual_rnn.experiments.runs.folder import Run, read_runs, run_folders
from contextual_rnn.experiments.runs.published import publish
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.studies.calibration import calibration
from contextual_rnn.experiments.studies.catalogue import AUTHORS, CALIBRATED, DECAY
from contextual_rnn.experiments.sweeps.sweep import SWEEP


def publish_all(folder: Path, results: Path) -> list[Path]:
    """Publish every sweep directly below `folder` with finished runs, and what a report computes from their weights.

    Calibration comes from the sweep decay-calibration, diagnostics and playground from the paper's own settings.
    Returns the files of runs. Raises ValueError, which names the file, for a damaged run.
    """
    written: list[Path] = []
    paper: list[Run] = []
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
    groups = groups_of(paper)
    sampled = [group for group in groups if group.entry.trajectories]
    dataclasses.replace(trained(sampled, groups), calibration=[]).write(results)
    return written


def _publish(folder: Path, file: Path) -> None:
    """Write the finished runs below `folder` into `file`."""
    publish(read_runs(folder), file)


def _all(folder: Path = Path("runs"), results: Path = Path("results")) -> None:
    """Write every sweep below `folder` that has finished runs, as those of results/evidence.sh."""
    print(*publish_all(folder, results), sep="\n")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"publish": _publish, "all": _all})

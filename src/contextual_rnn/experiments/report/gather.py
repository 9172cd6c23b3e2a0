"""Gathers a report from the runs below a folder, or from published results."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from contextual_rnn.experiments.config import in_order, tasks
from contextual_rnn.experiments.report.answer import sentences
from contextual_rnn.experiments.report.data import Curve, Fans, Panel, Picture, Report, Section
from contextual_rnn.experiments.report.from_weights import Trained, trained
from contextual_rnn.experiments.report.playground import trajectories
from contextual_rnn.experiments.report.tables import final_figures, over_seeds
from contextual_rnn.experiments.runs.folder import Refused, Run, command, run_folders, write_json
from contextual_rnn.experiments.runs.published import read_results
from contextual_rnn.experiments.runs.summary import status, summary
from contextual_rnn.experiments.stats.groups import (
    FREE_IN_A_COMPARISON,
    Group,
    differing,
    groups_of,
    nearest_to_defaults,
    place,
)
from contextual_rnn.experiments.stats.wording import spread, words
from contextual_rnn.experiments.studies.answer import Finding, findings_of
from contextual_rnn.experiments.studies.catalogue import ASIDE, study
from contextual_rnn.experiments.studies.evidence import evidence_of
from contextual_rnn.experiments.studies.start_ablations import accuracy_table
from contextual_rnn.experiments.tasks.decay import linear_cosine_decay

SUMMARY = "summary.json"
FIGURE_6_PERIODS, FIGURE_6_INITIAL = (2.0, 3.0), 3.0

# Limits of what a page shows of a large sweep; summary.json has the numbers of all runs.
PICTURES, TABLES, ROWS = 12, 60, 500


def gather(folder: Path, refused: Refused) -> Report:
    """Everything that the report on `folder` shows; of runs, summary and results of weights are written there as JSON.

    The error of a damaged file goes to `refused`. Raises ValueError where there is nothing that can be read.
    """
    reasons: dict[str, None] = {}

    def leave_out(error: Exception) -> None:
        reasons[str(error).replace(f"{folder}{os.sep}", "")] = None
        refused(error)

    order = list(tasks())
    received = read_results(folder, leave_out)
    states = in_order(run.config.state for run in received)

    def row(run: Run) -> tuple[object, ...]:
        return order.index(run.task), place(run), states.index(run.config.state), run.config.seed, run.folder

    runs = sorted(received, key=row)
    pictured = [run for run in runs if study(run) not in ASIDE]
    of_task = {task: [run for run in pictured if run.task == task] for task in order}
    by_task = {task: groups_of(each) for task, each in of_task.items()}
    groups = [group for each in by_task.values() for group in each]
    nearest = [group for each in by_task.values() for group in nearest_to_defaults(each, TABLES)]
    compared = [
        group
        for each in of_task.values()
        for group in nearest_to_defaults(groups_of(each, FREE_IN_A_COMPARISON), TABLES)
    ]
    listed = _listed(pictured, nearest)
    findings = findings_of(runs)
    if run_folders(folder):
        sampled = [group for each in by_task.values() for group in nearest_to_defaults(each, PICTURES)]
        from_weights = trained([group for group in sampled if group.entry.trajectories], nearest, leave_out)
        write_json(folder / SUMMARY, summary(runs))
        from_weights.write(folder)
    else:
        from_weights = Trained.read(folder, leave_out)
    return Report(
        states=states,
        answer=sentences(findings),
        headlines=_headlines(findings, groups),
        sections=[
            Section(entry, _pictures(nearest_to_defaults(by_task[task], PICTURES)), final_figures(entry, rows))
            for task, entry in tasks().items()
            if (rows := [run for run in listed if run.task == task])
        ],
        evidence=evidence_of(runs),
        trained=from_weights,
        accuracies=accuracy_table(listed),
        fans=_fans(from_weights),
        over_seeds=over_seeds(compared),
        commands=[run.result["command"] if run.result else command(run.config, run.folder) for run in listed],
        left_out=_left_out(pictured, listed, groups),
        reasons=list(reasons),
        versions=_versions(runs),
    )


def curves_of(runs: Sequence[Run], metric: str) -> list[Curve]:
    """The curve of every run that has the metric after some epoch."""
    curves: list[Curve] = []
    for run in runs:
        values = {line["epoch"]: line[metric] for line in run.metrics if math.isfinite(line.get(metric, math.nan))}
        if values:
            curves.append(Curve(run.config.state, status(run), values))
    return curves


def _headlines(findings: Sequence[Finding], groups: Sequence[Group]) -> dict[str, Panel]:
    """Two panels: the first metric of the first two groups that the answer is about; of a single one two metrics."""
    about = [each.best.group for finding in findings for each in finding.comparisons] or groups
    panels = {
        f"{group.title()}: {metric.axis or words(metric.name)}": panel
        for rank in range(2)
        for group in about[:2]
        for metric in [each for each in group.entry.metrics if each.curve][rank : rank + 1]
        if (panel := Panel(metric, curves_of(group.runs, metric.name))).curves
    }
    return dict(list(panels.items())[:2])


def _pictures(groups: Sequence[Group]) -> list[Picture]:
    pictures: list[Picture] = []
    apart_in = differing(groups)
    for group in groups:
        settings, entry = group.texts(), group.entry
        apart = ", ".join(settings[name] for name in apart_in if name in settings)
        title = ": ".join(filter(None, [*group.titles(), apart]))
        panels = [Panel(each, curves_of(group.runs, each.name)) for each in entry.metrics if each.curve]
        panels = panels if any(panel.curves for panel in panels) else []
        pictures.append(Picture(title, f"{_counted(group)}.", ", ".join(settings.values()), panels))
    return pictures


def _counted(group: Group) -> str:
    """As "2 to 3 seeds of each state, 1 run diverged": a sentence holds three numbers, and there may be many states."""
    counts = [sum(run.converged for run in group.of_state(state)) for state in group.states]
    seeds = f"{spread(counts)} seed{'s' * (max(counts) != 1)} of {'each state' if len(counts) > 1 else group.states[0]}"
    by_status = Counter(status(run) for run in group.runs if not run.converged)
    return ", ".join([seeds, *(f"{count} run{'s' * (count > 1)} {name}" for name, count in by_status.items())])


def _listed(runs: Sequence[Run], groups: Sequence[Group]) -> list[Run]:
    """All runs, or where they are more than ROWS, the first ROWS of those in `groups`."""
    if len(runs) <= ROWS:
        return list(runs)
    folders = {run.folder for group in groups for run in group.runs}
    return [run for run in runs if run.folder in folders][:ROWS]


def _left_out(runs: Sequence[Run], listed: Sequence[Run], groups: Sequence[Group]) -> str:
    if len(runs) == len(listed) and len(groups) <= PICTURES:
        return ""
    return (
        f"Here are {len(runs):,} runs in {len(groups):,} groups of settings. This page shows those nearest to the "
        f"defaults: pictures of at most {PICTURES} groups a task, intervals of {TABLES}, a line for {len(listed):,} "
        f"runs. {SUMMARY} has the figures of all, and contextual-rnn results writes them as Parquet."
    )


def _fans(from_weights: Trained) -> Fans | None:
    """Figure 6, from the playground's trajectories."""
    grid, initial = from_weights.playground, FIGURE_6_INITIAL
    if grid is None or initial not in grid["initials"] or not set(FIGURE_6_PERIODS) <= set(grid["periods"]):
        return None
    paths = {period: trajectories(grid, period, initial) for period in FIGURE_6_PERIODS}
    periods = torch.tensor(FIGURE_6_PERIODS, device="cpu")
    truths = linear_cosine_decay(torch.full_like(periods, initial), periods)
    return Fans(initial, paths, dict(zip(FIGURE_6_PERIODS, truths, strict=True)))


def _versions(runs: Sequence[Run]) -> list[str]:
    counts = Counter(
        ", ".join(f"{name} {version}" for name, version in run.result["versions"].items())
        for run in runs
        if run.result is not None
    )
    return [f"{versions} ({count} run{'s' * (count > 1)})" for versions, count in sorted(counts.items())]

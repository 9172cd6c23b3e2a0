"""What a report says, as plain data: `gather` fills it from runs, results and weights, `html` and `pages` render it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from contextual_rnn.experiments.config import Metric, TaskEntry
from contextual_rnn.experiments.report.from_weights import Trained
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.studies.evidence import Evidence


class Curve(NamedTuple):
    """A metric of one run by epoch, without those epochs where it is missing or not finite.

    `status` is that of `runs.summary`: finished, diverged or unfinished.
    """

    state: str
    status: str
    values: dict[float, float]


class Panel(NamedTuple):
    """The curves of one metric."""

    metric: Metric
    curves: Sequence[Curve]


class Picture(NamedTuple):
    """The learning curves of a group of runs; no panels where no epoch has finished yet."""

    title: str
    caption: str
    settings: str
    panels: Sequence[Panel]


class Section(NamedTuple):
    """The runs of one task."""

    entry: TaskEntry
    pictures: list[Picture]
    final_figures: Table


class Fans(NamedTuple):
    """Sampled trajectories (samples, points) and the true curve (points,) by period, all from one initial value."""

    initial: float
    paths: Mapping[float, Tensor]
    truths: Mapping[float, Tensor]


@dataclass(frozen=True)
class Report:
    """The whole report.

    `states` are those of all runs, in their order. `left_out` says which runs the report does not show, `reasons` which
    files are damaged. `answer` is what was found, in sentences; `headlines` are the curves that show it, by caption.
    """

    states: list[str]
    answer: list[str]
    headlines: dict[str, Panel]
    sections: list[Section]
    evidence: Evidence
    trained: Trained
    accuracies: Table | None
    fans: Fans | None
    over_seeds: list[Table]
    commands: list[str]
    left_out: str
    reasons: list[str]
    versions: list[str]

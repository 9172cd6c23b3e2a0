"""Did the initial state matter? What each state gains over zero, over seeds, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextual_rnn.experiments.comparison import Group
from contextual_rnn.experiments.config import STATES
from contextual_rnn.experiments.intervals import (
    Interval,
    epochs_to,
    median_interval,
    paired_gain,
    probability_of_improvement,
)
from contextual_rnn.experiments.results import Run

BASELINE = "zero"


@dataclass(frozen=True)
class Measure:
    """A number of a finished run, and whether more of it is better."""

    name: str
    of: Callable[[Run], float]
    more_is_better: bool


def final(metric: str) -> Callable[[Run], float]:
    """A metric of the last epoch; nan where the run has not finished or diverged."""
    return lambda run: run.result["final"].get(metric, math.nan) if run.result is not None else math.nan


MEASURES: dict[str, tuple[Measure, ...]] = {
    "retrieval": (
        Measure("validation_accuracy", final("validation_accuracy"), True),
        Measure("epochs_to_95", lambda run: epochs_to(run, 0.95), False),
        Measure("epochs_to_99", lambda run: epochs_to(run, 0.99), False),
    ),
    "decay": (
        Measure("validation_squared_error", final("validation_squared_error"), False),
        Measure("free_running_squared_error", final("free_running_squared_error"), False),
    ),
}


@dataclass(frozen=True)
class Evidence:
    """One measure of one state over seeds, beside the zero state of the same settings where it was run.

    `gain` is the median over seeds of the difference to zero, positive where better; `improvement` the probability
    that a seed of this state is better than one of zero. Both None for the zero state and without one.
    """

    settings: Mapping[str, Any]
    state: str
    measure: str
    seeds: tuple[int, ...]
    value: Interval
    gain: Interval | None
    improvement: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it: intervals as [estimate, low, high], what is not finite as null."""

        def numbers(interval: Interval | None) -> list[float | None] | None:
            return None if interval is None else [x if math.isfinite(x) else None for x in interval]

        intervals = {name: numbers(getattr(self, name)) for name in ("value", "gain", "improvement")}
        return {"state": self.state, "measure": self.measure, "seeds": list(self.seeds), **intervals}


def evidence(groups: Sequence[Group]) -> list[Evidence]:
    """Every measure of every state of every group, from the finished runs; groups of single seeds are left out."""
    return [row for group in groups for row in _evidence_of(group)]


def _evidence_of(group: Group) -> list[Evidence]:
    by_state: dict[str, dict[int, Run]] = {}
    for run in group.runs:
        if run.result is not None:
            by_state.setdefault(run.config.state, {})[run.config.seed] = run
    if max(map(len, by_state.values()), default=0) < 2:
        return []
    rows = []
    for measure in MEASURES[group.runs[0].task]:
        values = {
            state: {seed: value for seed, run in runs.items() if not math.isnan(value := measure.of(run))}
            for state, runs in by_state.items()
        }
        rows += [_row(group, measure, state, values) for state in STATES if values.get(state)]
    return rows


def _row(group: Group, measure: Measure, state: str, values: Mapping[str, Mapping[int, float]]) -> Evidence:
    own, zero = values[state], values.get(BASELINE, {})
    gain = improvement = None
    if state != BASELINE and own.keys() & zero.keys():
        sign = 1 if measure.more_is_better else -1
        ours, theirs = ({seed: sign * value for seed, value in side.items()} for side in (own, zero))
        improvement = probability_of_improvement(ours, theirs)
        if all(map(math.isfinite, [*ours.values(), *theirs.values()])):  # "for ever" has no difference
            gain = paired_gain(ours, theirs)
    return Evidence(
        group.settings, state, measure.name, tuple(sorted(own)), median_interval(list(own.values())), gain, improvement
    )

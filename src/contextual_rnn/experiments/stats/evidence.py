"""Did the initial state matter? What each state gains over zero, over seeds, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextual_rnn.experiments.config import STATES
from contextual_rnn.experiments.stats.contrast import contrast
from contextual_rnn.experiments.stats.groups import Group
from contextual_rnn.experiments.stats.intervals import Interval, median_interval
from contextual_rnn.experiments.stats.measures import MEASURES, values_by_seed

BASELINE = "zero"


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
    """Every measure of every state of every group, over runs that converged; groups of single seeds are left out."""
    return [row for group in groups for row in _evidence_of(group)]


def _evidence_of(group: Group) -> list[Evidence]:
    by_state = {state: [run for run in group.runs if run.config.state == state and run.converged] for state in STATES}
    if max(map(len, by_state.values())) < 2:
        return []
    rows = []
    for measure in MEASURES[group.runs[0].task]:
        for state, runs in by_state.items():
            if values := values_by_seed(runs, measure):
                zero = None if state == BASELINE else contrast(runs, by_state[BASELINE], measure)
                gain, improvement = (None, None) if zero is None else (zero.gain, zero.improvement)
                value = median_interval(list(values.values()))
                seeds = tuple(sorted(values))
                rows.append(Evidence(group.settings, state, measure.name, seeds, value, gain, improvement))
    return rows

"""Comparison of two sets of runs in one measure, paired by seed, and the verdict that its interval allows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from contextual_rnn.experiments.config import Measure
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.intervals import (
    Interval,
    median_interval,
    paired_gain,
    probability_of_improvement,
)
from contextual_rnn.experiments.stats.measures import values_by_seed

Verdict = Literal["ahead", "behind", "level", "open"]


@dataclass(frozen=True)
class Contrast:
    """Medians of both sides over the seeds that both have, the median gain, and the probability of improvement.

    `gain` is ours - theirs, positive where ours is better; None where a value is infinite (accuracy not reached).
    """

    seeds: tuple[int, ...]
    ours: Interval
    theirs: Interval
    gain: Interval | None
    improvement: Interval

    @property
    def verdict(self) -> Verdict:
        """ahead or behind: the interval lies on one side of no gain; level: it contains it; open: a single seed."""
        interval, none = (self.improvement, 0.5) if self.gain is None else (self.gain, 0.0)
        if math.isnan(interval.low):
            return "open"
        return "ahead" if interval.low > none else "behind" if interval.high < none else "level"

    @property
    def side(self) -> Verdict:
        """The verdict; where a single seed allows none, the side that its values are on."""
        if self.verdict != "open":
            return self.verdict
        return "ahead" if self.improvement.estimate > 0.5 else "behind" if self.improvement.estimate < 0.5 else "level"

    @property
    def significant_by_chance(self) -> float:
        """A bound on the probability of a verdict other than level where neither side is better, for 3 seeds and more.

        A sign test: as many seeds may differ from the others as lie beyond an end of the interval.
        """
        beyond = math.ceil(median_interval(range(len(self.seeds))).low)
        return float(2 * stats.binom.cdf(beyond, len(self.seeds), 0.5))


def contrast(ours: Iterable[Run], theirs: Iterable[Run], measure: Measure) -> Contrast | None:
    """The runs of both sides that converged; None where they share no seed."""
    left, right = values_by_seed(ours, measure), values_by_seed(theirs, measure)
    seeds = tuple(sorted(left.keys() & right.keys()))
    if not seeds:
        return None
    sign = 1 if measure.more_is_better else -1
    signed = tuple({seed: sign * side[seed] for seed in seeds} for side in (left, right))
    finite = all(math.isfinite(value) for side in signed for value in side.values())
    return Contrast(
        seeds,
        median_interval([left[seed] for seed in seeds]),
        median_interval([right[seed] for seed in seeds]),
        paired_gain(*signed) if finite else None,
        probability_of_improvement(*signed),
    )

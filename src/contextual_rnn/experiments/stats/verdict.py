"""Whether a state is better than zero: errors of many series under several seeds, and the verdict they allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from numpy.typing import ArrayLike

from contextual_rnn.experiments.config.panel import SMALLEST_GAIN
from contextual_rnn.experiments.stats.crossed import crossed_mean
from contextual_rnn.experiments.stats.intervals import CONFIDENCE, Interval

Verdict = Literal["helps", "does not help", "cannot be decided"]


class Errors:
    """Errors on one test set: `values` (seeds, examples, steps), nan where there is no target.

    `series`, (examples,), names what each example is a part of. Series are independent, examples of one series are
    not. Raises ValueError for other shapes, and for an example or a series without any target.
    """

    def __init__(self, values: ArrayLike, series: Sequence[object]):
        self.values = numpy.asarray(values, dtype=float)
        if self.values.ndim != 3 or not self.values.size or self.values.shape[1] != len(series):
            expected = f"(seeds, {len(series)}, steps)"
            raise ValueError(f"values: expected errors {expected}, got shape {self.values.shape}")
        names = numpy.asarray([str(name) for name in series])
        self.series, self._of = numpy.unique(names, return_inverse=True)

    @property
    def seeds(self) -> int:
        return self.values.shape[0]

    def by_series(self, values: numpy.ndarray | None = None) -> numpy.ndarray:
        """The mean error of each series, (seeds, series); nan for one without a target."""
        values = self.values if values is None else values
        sums = numpy.zeros((values.shape[0], len(self.series)))
        counts = numpy.zeros_like(sums)
        for index, each in enumerate(values):
            known = ~numpy.isnan(each)
            sums[index] = numpy.bincount(self._of, numpy.where(known, each, 0).sum(1), len(self.series))
            counts[index] = numpy.bincount(self._of, known.sum(1), len(self.series))
        return numpy.divide(sums, counts, out=numpy.full_like(sums, math.nan), where=counts > 0)

    def mean(self) -> float:
        """The mean over series and seeds, every series with the same weight."""
        return float(numpy.nanmean(self.by_series()))

    def by_step(self) -> list[float]:
        """The mean error of each step, counted from the initial state; nan where no series has a target."""
        means = self.by_series_and_step()
        known = ~numpy.isnan(means)
        sums, counts = numpy.where(known, means, 0).sum((0, 1)), known.sum((0, 1))
        return numpy.divide(sums, counts, out=numpy.full_like(sums, math.nan), where=counts > 0).tolist()

    def by_series_and_step(self, values: numpy.ndarray | None = None) -> numpy.ndarray:
        """The mean error of each series at each step, (seeds, series, steps); nan for one without a target."""
        values = self.values if values is None else values
        order = numpy.argsort(self._of, kind="stable")
        first = numpy.searchsorted(self._of[order], numpy.arange(len(self.series)))
        means = numpy.full((len(values), len(self.series), values.shape[2]), math.nan)
        for mean, each in zip(means, values, strict=True):
            known = ~numpy.isnan(each[order])
            sums = numpy.add.reduceat(numpy.where(known, each[order], 0), first)
            counts = numpy.add.reduceat(known, first, dtype=numpy.int64)
            numpy.divide(sums, counts, out=mean, where=counts > 0)
        return means

    def part(self, examples: numpy.ndarray) -> Errors:
        """The errors of some examples, (examples,) of bool."""
        return Errors(self.values[:, examples], list(self.series[self._of[examples]]))


@dataclass(frozen=True)
class Gain:
    """What an arm gains over a baseline: mean of the baseline's error - the arm's, over seeds and series.

    `share` is the same in shares of the baseline's mean error.
    """

    gain: Interval
    share: Interval
    seeds: int
    series: int

    def verdict(self, smallest: float = SMALLEST_GAIN) -> Verdict:
        """helps: the interval lies above 0; does not help: it lies below `smallest`, a share of the baseline's error.

        A gain whose interval lies above 0 helps however small it is. With fewer than two series nothing is decided.
        """
        if self.series < 2 or math.isnan(self.share.low):
            return "cannot be decided"
        if self.share.low > 0:
            return "helps"
        return "does not help" if self.share.high < smallest else "cannot be decided"


def gain_over(baseline: Errors, arm: Errors, arms: int = 1) -> Gain:
    """The gain of `arm`, chosen among `arms` on other data: the interval's level is 1 - 0.05 / arms (Bonferroni).

    Seeds and series are random, and crossed; see `crossed_mean`. Raises ValueError where the two have other seeds,
    examples or steps.
    """
    _check_alike(baseline, arm)
    differences = _difference(baseline.by_series(), arm.by_series())
    gain = mean_of_known(differences, 1 - (1 - CONFIDENCE) / max(arms, 1))
    mean = baseline.mean()
    share = Interval(*(value / mean if mean > 0 else math.nan for value in gain))
    known = ~numpy.isnan(baseline.by_series()).all(0)
    return Gain(gain, share, baseline.seeds, int(known.sum()))


def gain_by_step(baseline: Errors, arm: Errors) -> list[Interval]:
    """The gain of `arm` at each step from the initial state, with intervals of 95 %; raises as `gain_over`."""
    _check_alike(baseline, arm)
    differences = _difference(baseline.values, arm.values)
    means = baseline.by_series_and_step(differences)
    return [mean_of_known(means[..., step]) for step in range(means.shape[2])]


def lasting(by_step: Sequence[Interval]) -> int:
    """How many steps from the initial state on have a gain whose interval lies above 0."""
    return next((step for step, gain in enumerate(by_step) if not gain.low > 0), len(by_step))


def _check_alike(baseline: Errors, arm: Errors) -> None:
    if baseline.values.shape != arm.values.shape or list(baseline.series) != list(arm.series):
        expected, received = baseline.values.shape, arm.values.shape
        raise ValueError(f"arm: expected errors of the same seeds, examples and steps, {expected}, got {received}")


def mean_of_known(table: numpy.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """`crossed_mean` of the series that have a target, which is not nan; nan where none has, or one is infinite."""
    known = table[:, ~numpy.isnan(table).any(0)]
    decided = known.size and numpy.isfinite(known).all()
    return crossed_mean(known, confidence) if decided else Interval(math.nan, math.nan, math.nan)


def _difference(baseline: numpy.ndarray, arm: numpy.ndarray) -> numpy.ndarray:
    """Nan where there is no target, infinite where one of the two is."""
    infinite = numpy.isinf(baseline) | numpy.isinf(arm)
    with numpy.errstate(invalid="ignore"):
        return numpy.where(infinite, math.inf, baseline - arm)


def best_of(errors: Mapping[str, float]) -> str:
    """The name of the least error, the first of equal ones. Raises ValueError for no finite error."""
    finite = {name: error for name, error in errors.items() if math.isfinite(error)}
    if not finite:
        raise ValueError(f"errors: expected at least one that is finite, got {dict(errors)}")
    return min(finite, key=lambda name: finite[name])

"""Statistics over seeds: medians with bootstrap intervals, gains paired by seed, probabilities of improvement."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
LEAST_RESAMPLES, MOST_DRAWS = 999, 5_000_000  # of thousands of seeds fewer resamples are drawn, not over so many values


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % bootstrap interval; the ends are nan for a single seed."""

    estimate: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval:
    """The median over seeds, by the percentile bootstrap. Raises ValueError for no values or a nan."""
    return _bootstrap((_checked(values),), _median)


def paired_gain(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval:
    """Median over seeds of value - baseline, paired by seed; raises ValueError where they share none."""
    return _bootstrap((tuple(a - b for a, b in zip(*_paired(values, baseline), strict=True)),), _median)


def probability_of_improvement(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval:
    """P(value > baseline) + P(value = baseline) / 2 over a seed of each, by pairs of all seeds (Agarwal et al. 2021).

    The interval resamples seeds, a seed's two values together. Raises ValueError where they share no seed.
    """
    return _bootstrap(_paired(values, baseline), _probability)


def _median(values: numpy.ndarray, axis: int) -> numpy.ndarray:
    # The lower of two middle values: between a number of epochs and infinity there is no mean.
    return numpy.quantile(values, 0.5, axis=axis, method="lower" if numpy.isinf(values).any() else "linear")


def _probability(values: numpy.ndarray, baseline: numpy.ndarray, axis: int) -> numpy.ndarray:
    assert axis == -1
    # By ranks (Mann and Whitney): all pairs of five thousand seeds, a thousand resamples at once, would be 25 GB.
    n, m = values.shape[-1], baseline.shape[-1]
    ranks = stats.rankdata(numpy.concatenate([values, baseline], axis=-1), axis=-1)
    return (ranks[..., :n].sum(axis=-1) - n * (n + 1) / 2) / (n * m)


@functools.lru_cache(maxsize=4096)  # a report asks for many intervals in more than one place
def _bootstrap(values: tuple[tuple[float, ...], ...], statistic: Callable[..., Any]) -> Interval:
    samples = tuple(numpy.asarray(each) for each in values)
    estimate = float(statistic(*samples, axis=-1))
    if len(samples[0]) < 2:
        return Interval(estimate, math.nan, math.nan)
    resamples = max(LEAST_RESAMPLES, min(RESAMPLES, MOST_DRAWS // len(samples[0])))
    with numpy.errstate(invalid="ignore"):  # a standard error that nobody asked for, of infinite values
        drawn = stats.bootstrap(
            samples, statistic, n_resamples=resamples, paired=len(samples) > 1, vectorized=True, method="percentile",
            confidence_level=CONFIDENCE, rng=numpy.random.default_rng(0), batch=min(1000, resamples),
        ).bootstrap_distribution  # fmt: skip
    tail = (1 - CONFIDENCE) / 2
    low, high = numpy.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")  # an end may be infinite
    return Interval(estimate, float(low), float(high))


def _paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        raise ValueError(f"baseline: expected a seed of {sorted(values)}, got {sorted(baseline)}")
    return _checked([values[seed] for seed in seeds]), _checked([baseline[seed] for seed in seeds])


def _checked(values: Sequence[float]) -> tuple[float, ...]:
    if not len(values) or any(map(math.isnan, values)):
        raise ValueError(f"values: expected at least one number and no nan, got {list(values)}")
    return tuple(map(float, values))

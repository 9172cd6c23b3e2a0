"""Intervals cover what they claim to, and pairing is by seed."""

import math
import tracemalloc

import numpy
import pytest

from contextual_rnn.experiments.config import epochs_to
from contextual_rnn.experiments.stats import intervals
from contextual_rnn.experiments.stats.intervals import median_interval, paired_gain, probability_of_improvement


def test_the_median_lies_in_its_interval_and_single_seeds_have_none():
    estimate, low, high = median_interval([3.0, 1.0, 2.0, 10.0, 4.0])
    assert (estimate, low, high) == (3.0, 1.0, 10.0)
    single = median_interval([2.5])
    assert single.estimate == 2.5
    assert math.isnan(single.low)
    assert math.isnan(single.high)


def test_the_interval_covers_the_true_median_about_as_often_as_it_says():
    """The percentile bootstrap of a median over 15 values covers a little less than 95 %."""
    generator = numpy.random.default_rng(1)
    found = [median_interval(sample) for sample in generator.exponential(size=(60, 15))]
    assert 0.85 <= numpy.mean([low <= math.log(2) <= high for _, low, high in found]) <= 1
    assert numpy.mean([high - low for _, low, high in found]) < 1.5, "an interval that covers everything says nothing"


def test_gains_are_paired_by_seed():
    """Seeds differ by far more than the two states: unpaired, nothing could be seen."""
    baseline = {seed: 100.0 * seed for seed in range(8)}
    values = {seed: 100.0 * seed + 1 + 0.1 * (seed % 3) for seed in reversed(range(8))} | {99: -1e9}
    estimate, low, high = paired_gain(values, baseline)
    assert 1 <= low <= estimate <= high <= 1.21
    assert paired_gain({3: 5.0}, {3: 2.0, 4: 1.0}).estimate == 3


def test_probability_of_improvement():
    lower, higher = {0: 1.0, 1: 2.0, 2: 3.0}, {0: 4.0, 1: 5.0, 2: 6.0}
    assert probability_of_improvement(higher, lower) == (1, 1, 1)
    assert probability_of_improvement(lower, higher) == (0, 0, 0)
    assert probability_of_improvement(lower, lower).estimate == 0.5
    mixed = probability_of_improvement({0: 1.0, 1: 4.0}, {0: 2.0, 1: 3.0})
    assert mixed.estimate == 0.5
    assert mixed.low < 0.5 < mixed.high


def test_the_probability_is_that_over_all_pairs_and_takes_memory_for_the_seeds_alone(monkeypatch):
    generator = numpy.random.default_rng(2)
    ours, theirs = (dict(enumerate(generator.integers(0, 9, 2000) / 2.0)) for _ in range(2))
    ours[0] = theirs[1] = theirs[2] = math.inf
    monkeypatch.setattr(intervals, "LEAST_RESAMPLES", 20)
    monkeypatch.setattr(intervals, "MOST_DRAWS", 1)
    tracemalloc.start()
    found = probability_of_improvement(ours, theirs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pairs = numpy.subtract.outer(*(numpy.minimum(list(side.values()), 1e9) for side in (ours, theirs)))
    assert found.estimate == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), rel=1e-12)
    assert found.low < found.estimate < found.high
    assert peak < 100e6, "all pairs of twenty resamples at once are 640 MB"


def test_a_run_that_never_arrives_takes_for_ever():
    metrics = [{"epoch": e, "validation_accuracy": a} for e, a in enumerate([0.1, 0.4, 0.96, 0.9, 0.97])]
    assert [epochs_to(share, "validation_accuracy")(metrics, {}) for share in (0.95, 0.965, 0.99)] == [2, 4, math.inf]
    assert median_interval([2.0, 4.0, math.inf, 3.0]) == (3.0, 2.0, math.inf)
    assert median_interval([math.inf] * 3) == (math.inf,) * 3


@pytest.mark.parametrize("call", [lambda: median_interval([]), lambda: median_interval([1.0, math.nan])])
def test_no_numbers(call):
    with pytest.raises(ValueError, match="values: expected at least one number and no nan"):
        call()


def test_no_seed_in_common():
    with pytest.raises(ValueError, match=r"baseline: expected a seed of \[1\], got \[2\]"):
        paired_gain({1: 0.0}, {2: 0.0})

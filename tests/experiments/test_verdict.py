"""The verdict on tables of errors whose truth is known: planted gains, none at all, and seeds that dominate."""

import math

import numpy
import pytest

from contextual_rnn.experiments.stats.crossed import crossed_mean
from contextual_rnn.experiments.stats.verdict import Errors, best_of, gain_by_step, gain_over, lasting

STEPS, ARMS = 15, 5


def planted(share, seeds, series, rng, examples=1):
    """Errors of zero, which lacks the start, and of a state that finds most of it; `share` is of the first step."""
    spread = math.sqrt(share / (1 - share))
    starts = numpy.repeat(rng.normal(size=series) * spread, examples)
    start = starts[:, None] * 0.85 ** numpy.arange(STEPS)
    noise = rng.normal(size=start.shape)

    def errors(missed):
        trained = 0.03 * rng.normal(size=(seeds, 1, 1)) + 0.05 * rng.normal(size=(seeds, len(starts), 1))
        return Errors((missed * start + noise + trained) ** 2, numpy.repeat(numpy.arange(series), examples))

    return errors(1.0), errors(0.2)


def share_that_helps(share, seeds=3, series=60, count=100, **more):
    rng = numpy.random.default_rng(0)
    gains = [gain_over(*planted(share, seeds, series, rng, **more), arms=ARMS) for _ in range(count)]
    return sum(gain.verdict() == "helps" for gain in gains) / count


def test_a_planted_start_is_found_and_none_is_not():
    assert share_that_helps(0.5, series=80) >= 0.95
    assert share_that_helps(0.0) <= 0.05
    assert share_that_helps(0.0, series=10) <= 0.05
    assert share_that_helps(0.0, series=10, examples=20) <= 0.05  # twenty windows of each of ten series


def test_more_of_the_first_step_or_more_series_give_more_power():
    assert share_that_helps(0.5, series=15) < share_that_helps(0.5, series=60)
    assert share_that_helps(0.2, series=60) < share_that_helps(0.5, series=60)


@pytest.mark.parametrize(("seeds", "series"), [(3, 12), (3, 30), (5, 5), (10, 20)])
@pytest.mark.parametrize("scales", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.1, 2.0)])
def test_an_interval_of_95_percent_holds_the_mean_in_about_95_percent(seeds, series, scales):
    rng = numpy.random.default_rng(1)
    tables = (
        3.0 + scales[0] * rng.normal(size=(seeds, 1)) + scales[1] * rng.normal(size=(1, series))
        + rng.normal(size=(seeds, series))
        for _ in range(400)
    )  # fmt: skip
    inside = sum(interval.low < 3.0 < interval.high for interval in map(crossed_mean, tables)) / 400
    assert inside > 0.92  # as `crossed_mean` says, less a standard error of 400 draws


def test_seeds_that_differ_more_than_the_gain_leave_it_open():
    gain = numpy.array([[1.0] * 40, [-0.5] * 40, [0.9] * 40]) + numpy.linspace(-0.1, 0.1, 40)
    interval = crossed_mean(gain)
    assert interval.low < 0 < interval.estimate


def test_one_seed_is_over_series_and_one_series_is_never_decided():
    rng = numpy.random.default_rng(0)
    zero, arm = planted(0.5, 1, 80, rng)
    assert gain_over(zero, arm).verdict() == "helps"
    gain = gain_over(Errors([[[2.0]], [[2.1]]], ["a"]), Errors([[[1.0]], [[1.0]]], ["a"]))
    assert (gain.series, gain.verdict()) == (1, "cannot be decided")
    assert math.isnan(crossed_mean([[1.0]]).low)


def test_an_interval_below_the_smallest_gain_does_not_help():
    rng = numpy.random.default_rng(0)
    zero = Errors(1 + 0.01 * rng.random((3, 50, 4)), range(50))
    arm = Errors(1 + 0.01 * rng.random((3, 50, 4)), range(50))
    gain = gain_over(zero, arm)
    assert gain.verdict() == "does not help"
    assert gain.verdict(smallest=-1.0) == "cannot be decided"


def test_means_by_step_are_those_of_each_step_alone():
    rng = numpy.random.default_rng(0)
    values = rng.normal(size=(2, 9, 6))
    values[:, rng.random((9, 6)) < 0.4] = math.nan
    values[..., 3], values[0, 0, 0] = math.nan, math.inf
    errors = Errors(values, [5, 3, 3, 1, 5, 1, 1, 2, 5])
    alone = [errors.by_series(values[..., step : step + 1]) for step in range(6)]
    numpy.testing.assert_allclose(errors.by_series_and_step(), numpy.stack(alone, 2), rtol=1e-12)
    expected = [math.nan if numpy.isnan(each).all() else numpy.nanmean(each) for each in alone]
    numpy.testing.assert_allclose(errors.by_step(), expected, rtol=1e-12)


def test_series_count_alike_and_missing_targets_do_not_count():
    nan = math.nan
    errors = Errors([[[1.0, nan], [3.0, 5.0], [10.0, nan], [nan, nan]]], ["a", "b", "b", "c"])
    assert errors.by_series()[0][:2].tolist() == [1.0, 6.0]
    assert errors.mean() == 3.5
    assert errors.by_step() == [(1.0 + 6.5) / 2, 5.0]
    assert errors.part(numpy.array([True, False, False, False])).mean() == 1.0
    better = Errors(errors.values - 0.5, ["a", "b", "b", "c"])
    gain = gain_over(errors, better)
    assert (gain.gain.estimate, gain.series) == (0.5, 2)
    assert gain_by_step(errors, better)[1].estimate == 0.5


def test_a_gain_lasts_for_the_first_steps_whose_interval_lies_above_zero():
    rng = numpy.random.default_rng(0)
    zero, arm = planted(0.8, 3, 200, rng)
    by_step = gain_by_step(zero, arm)
    assert 2 <= lasting(by_step) < STEPS
    assert all(step.low > 0 for step in by_step[: lasting(by_step)])
    assert not by_step[lasting(by_step)].low > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Errors([[1.0]], ["a"]), r"values: expected errors \(seeds, 1, steps\), got shape \(1, 1\)"),
        (lambda: crossed_mean([[math.nan]]), "table: expected finite numbers"),
        (lambda: best_of({"a": math.inf}), "errors: expected at least one that is finite"),
        (
            lambda: gain_over(Errors([[[1.0]]], ["a"]), Errors([[[1.0]]], ["b"])),
            "arm: expected errors of the same seeds, examples and steps",
        ),
    ],
)
def test_tables_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_best_has_the_least_error():
    assert best_of({"zero": 2.0, "free": 1.0, "context": 1.0, "window": math.nan}) == "free"

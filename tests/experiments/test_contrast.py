"""What an interval allows to say."""

import math

import pytest
from tests.experiments.made_runs import retrieval_run

from contextual_rnn.experiments.config.retrieval import ACCURACY, TO_95
from contextual_rnn.experiments.stats.contrast import contrast


def runs(*accuracies, state="zero", **options):
    return [retrieval_run("map", state, seed, accuracy, **options) for seed, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [((0.8, 0.9, 0.85), "ahead"), ((0.6, 0.65, 0.5), "behind"), ((0.8, 0.6, 0.75), "level"), ((0.9,), "open")],
)
def test_the_verdict_follows_the_interval(ours, verdict):
    seen = contrast(runs(*ours), runs(0.7, 0.72, 0.71), ACCURACY)
    assert seen.verdict == verdict
    assert seen.seeds == tuple(range(len(ours)))


def test_gains_are_paired_and_signed():
    seen = contrast(runs(0.8, 0.9, 0.7), runs(0.5, 0.8, 0.9), ACCURACY)
    assert seen.gain.estimate == pytest.approx(0.1), "the median of 0.3, 0.1 and -0.2, not of the medians"
    assert (seen.ours.estimate, seen.theirs.estimate) == (0.8, 0.8)
    sooner = contrast(runs(1.0, 1.0, rise=4), runs(1.0, 1.0, rise=20), TO_95)
    assert sooner.gain.estimate == 15, "fewer epochs are a gain"
    assert sooner.verdict == "ahead"


def test_what_never_happens_is_still_compared():
    seen = contrast(runs(1.0, 1.0), runs(0.7, 0.7), TO_95)
    assert seen.gain is None
    assert math.isinf(seen.theirs.estimate)
    assert seen.verdict == "ahead"
    assert contrast(runs(0.7, 0.7), runs(0.6, 0.6), TO_95).verdict == "level", "neither gets there"


def test_only_shared_seeds_count():
    shared = contrast(runs(0.9, 0.8, 0.1), runs(0.7, 0.7), ACCURACY)
    assert shared.seeds == (0, 1)
    assert shared.ours.low == 0.8
    assert contrast(runs(0.9)[:0], runs(0.7), ACCURACY) is None

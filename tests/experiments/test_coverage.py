"""Coverage is right where it is known, and the decay task's KL term and metrics are what they are called."""

import math

import pytest
import torch
from scipy import stats

from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.tasks.coverage import LEVELS, TWO_DEVIATIONS, coverage, deviations_of
from contextual_rnn.experiments.tasks.registry import build_task
from contextual_rnn.experiments.training.seeding import generator_for

SMALL = {"samples_per_period": 8, "units": 6, "context_units": 4}


@pytest.mark.parametrize("level", [*LEVELS, TWO_DEVIATIONS])
def test_deviations_are_those_of_the_normal_distribution(level):
    assert deviations_of(level) == pytest.approx(stats.norm.ppf(0.5 + level / 2), rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_samples_as_wide_as_the_truth_are_calibrated_and_narrower_ones_are_not(scale):
    generator = torch.Generator().manual_seed(0)
    paths = 3 + scale * torch.randn(500, 200, 20, generator=generator, dtype=torch.float64)
    truth = 3 + torch.randn(500, 20, generator=generator, dtype=torch.float64)
    found = coverage(paths, truth, [deviations_of(level) for level in LEVELS])
    assert found.shape == (500, len(LEVELS))
    expected = [2 * stats.norm.cdf(scale * deviations_of(level)) - 1 for level in LEVELS]
    # Three standard errors of 10,000 draws are 0.015; that the deviation is that of 200 samples is far less.
    torch.testing.assert_close(found.mean(0), torch.tensor(expected, dtype=torch.float64), atol=0.015, rtol=0)


def test_coverage_of_each_sequence_is_its_own():
    paths = torch.tensor([[[0.0, 0.0], [2.0, 2.0]], [[0.0, 0.0], [2.0, 2.0]]])  # mean 1, deviation sqrt 2
    truth = torch.tensor([[1.0, 2.5], [5.0, -0.3]])
    assert coverage(paths, truth, [1.0, 2.0]).tolist() == [[0.5, 1.0], [0.5, 0.5]]


def test_kl_weight_adds_the_kl_term():
    config = DecayConfig(kl_weight=0.25, **SMALL)
    plain, ours = build_task(DecayConfig(**SMALL)), build_task(config)
    batch = tuple(tensor[:5] for tensor in ours.training)
    x, period = batch
    kl = ours.model.rnn.initial_state.kl(ours.model.context_of(x[:, 0], period)).mean()
    losses = [task.loss(batch, generator_for("a")).item() for task in (plain, ours)]
    assert losses[1] == pytest.approx(losses[0] + 0.25 * kl.item(), rel=1e-6)
    assert kl > 0.1


def test_metrics_of_the_normal_state():
    task = build_task(DecayConfig(**SMALL, scale=0.25, min_scale=0.125))
    state = task.model.rnn.initial_state
    with torch.no_grad():
        state.raw_scale["h"][..., 0] = -50.0  # at the floor
        state.raw_scale["c"][..., 1] = math.log(math.expm1(0.875))
    metrics = task.evaluate(final=False)
    assert metrics["smallest_scale"] == pytest.approx(0.125)
    assert metrics["largest_scale"] == pytest.approx(1.0)
    assert metrics["mean_scale"] == pytest.approx((0.125 + 1.0 + 10 * 0.25) / 12)
    assert metrics["trajectory_spread"] > 0
    assert 0 <= metrics["coverage_two_deviations"] <= 1
    assert metrics == task.evaluate(final=False), "the same draws after every epoch"
    for state in ("zero", "free", "context"):
        assert set(build_task(DecayConfig(state=state, **SMALL)).evaluate(False)) == {"validation_squared_error"}

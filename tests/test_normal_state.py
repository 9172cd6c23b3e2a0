"""NormalState against torch's multivariate normal of all leaves together, and against its own samples."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from contextual_rnn import (
    ConstantState,
    FastWeightsCell,
    FreeState,
    LeafwiseState,
    NormalState,
    fast_weights_spec,
    state_spec,
)

B = 4
SPECS = {
    "lstm": lambda: state_spec(nn.LSTM(3, 5, num_layers=2)),
    "lstm projected both ways": lambda: state_spec(nn.LSTM(3, 5, bidirectional=True, proj_size=2)),
    "one state for all layers": lambda: state_spec(nn.LSTM(3, 5, num_layers=2)).shared(),
    "dense A": lambda: fast_weights_spec(FastWeightsCell(3, 5), "dense"),
    "low-rank A": lambda: fast_weights_spec(FastWeightsCell(3, 5), "low_rank", rank=2),
}


def net():
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh())


def normal_state(case="lstm", **options):
    """In evaluation; no two units have one mean or one sigma, nor two contexts where sigma is of the context."""
    torch.manual_seed(0)
    state = NormalState(SPECS[case](), net(), **options).eval()
    with torch.no_grad():
        if state.scale_heads is None:
            for raw in state.raw_scale.values():
                raw.add_(0.5 * torch.randn_like(raw))
        else:
            for parameter in state.scale_heads.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    return state


def flat(leaves):
    """The leaves in order as one vector a row, (B, all units)."""
    return torch.cat([leaf.flatten(1) for leaf in leaves], 1)


def by_hand(state, context):
    """Mean and sigma of all units of all leaves, (B, all units) each, from the parameters alone."""
    features = torch.tanh(nn.functional.linear(context, *state.mean.net[0].parameters()))
    means, sigmas = [], []
    for leaf in state.spec:
        head = state.mean.heads.layers[leaf.name]
        means.append(features @ head.weight.T + head.bias)
        if state.scale_heads is None:
            raw = state.raw_scale[leaf.name].flatten().expand_as(means[-1])
        else:
            head = state.scale_heads.layers[leaf.name]
            raw = features @ head.weight.T + head.bias
        sigmas.append(state.min_scale + torch.log(1 + raw.exp()))
    return torch.cat(means, 1), torch.cat(sigmas, 1)


def assert_same_value_and_gradients(found, expected, leaves):
    cotangent = torch.randn(expected.shape, dtype=expected.dtype)
    gradients = torch.autograd.grad(found, leaves, cotangent, allow_unused=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, cotangent, allow_unused=True))
    assert all(gradient is not None and gradient.any() for gradient in gradients)


@pytest.fixture(params=[False, True], ids=["sigma free", "sigma of the context"])
def from_context(request):
    return request.param


@pytest.mark.parametrize("case", SPECS)
def test_log_prob_is_that_of_a_multivariate_normal(case, from_context):
    state = normal_state(case, scale=0.4, min_scale=0.1, scale_from_context=from_context).double()
    context = torch.randn(B, 2, dtype=torch.float64, requires_grad=True)
    values = {leaf.name: torch.randn(B, *leaf.shape).double().requires_grad_() for leaf in state.spec}
    mean, sigma = by_hand(state, context)
    expected = MultivariateNormal(mean, scale_tril=torch.diag_embed(sigma)).log_prob(flat(values.values()))
    found = state.log_prob(state.spec.pack(values), context)
    assert_same_value_and_gradients(found, expected, [context, *values.values(), *state.parameters()])
    one = state.log_prob(state.spec.pack({name: value[1] for name, value in values.items()}), context[1])
    torch.testing.assert_close(one, expected[1])


@pytest.mark.parametrize("case", SPECS)
@pytest.mark.parametrize("prior", [{}, {"prior_mean": 0.2, "prior_scale": 0.7}], ids=["standard", "other"])
def test_kl_is_that_of_multivariate_normals(case, from_context, prior):
    state = normal_state(case, scale=0.4, min_scale=0.1, scale_from_context=from_context).double()
    context = torch.randn(B, 2, dtype=torch.float64, requires_grad=True)
    mean, sigma = by_hand(state, context)
    loc = torch.full_like(mean, prior.get("prior_mean", 0.0))
    to = MultivariateNormal(loc, scale_tril=prior.get("prior_scale", 1.0) * torch.eye(mean.shape[1]).double())
    expected = kl_divergence(MultivariateNormal(mean, scale_tril=torch.diag_embed(sigma)), to)
    assert_same_value_and_gradients(state.kl(context, **prior), expected, [context, *state.parameters()])
    torch.testing.assert_close(state.kl(context[1], **prior), expected[1])


def test_the_kl_of_what_is_not_a_number_is_none():
    """As a loss is, which training then takes for diverged."""
    state = normal_state("lstm", scale=0.4)
    assert state.kl(torch.full((B, 2), torch.nan)).isnan().all()


@pytest.mark.parametrize("case", SPECS)
def test_draws_are_mean_plus_sigma_epsilon_and_so_are_their_gradients(case, from_context):
    state = normal_state(case, scale=0.4, min_scale=0.1, scale_from_context=from_context).double().train()
    context = torch.randn(B, 2, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    epsilon = flat([torch.randn(B, *leaf.shape, generator=generator, dtype=torch.float64) for leaf in state.spec])
    mean, sigma = by_hand(state, context)
    found = state.spec.unpack(state(context, generator=torch.Generator().manual_seed(0)))
    assert_same_value_and_gradients(flat(found.values()), mean + sigma * epsilon, [context, *state.parameters()])


@pytest.mark.parametrize("case", SPECS)
def test_samples_of_each_context_have_its_mean_and_sigma(case, from_context):
    state, draws = normal_state(case, scale=0.4, scale_from_context=from_context), 10_000
    context = torch.tensor([[3.0, 0.0], [-3.0, 1.0], [0.0, -3.0]])
    sampled = state.sample(context, draws, generator=torch.Generator().manual_seed(0))
    rows = flat(state.spec.unpack(sampled).values()).detach().unflatten(0, (3, draws))
    mean, sigma = (moment.detach() for moment in by_hand(state, context))
    # Standard errors sigma / sqrt(n) and sigma / sqrt(2 n); five of each.
    assert ((rows.mean(1) - mean) / sigma).abs().max() < 5 / math.sqrt(draws)
    assert (rows.std(1) / sigma - 1).abs().max() < 5 / math.sqrt(2 * draws)
    assert (mean[0] - mean[1]).abs().max() > 0.2, "rows in another order would be seen"
    assert from_context == (not torch.allclose(sigma[0], sigma[1], rtol=0.2))


def test_evaluation_takes_the_mean_and_tiles_it():
    state = normal_state().double()
    context = torch.randn(2, dtype=torch.float64, requires_grad=True)
    expected = by_hand(state, context[None])[0].expand(B, -1)
    found = flat(state.spec.unpack(state(context, B)).values())
    assert_same_value_and_gradients(found, expected, [context, *state.mean.parameters()])


def test_sigma_has_a_floor(from_context):
    state = normal_state(scale=0.5, min_scale=0.125, scale_from_context=from_context)
    with torch.no_grad():
        (state.scale_heads.layers["h"].bias if from_context else state.raw_scale["h"]).fill_(-1e9)
    assert (state.distribution(torch.randn(B, 2))["h"].scale == 0.125).all()
    assert (state.distribution(torch.randn(B, 2))["c"].scale > 0.125).all()


@pytest.mark.parametrize("scale", [1e-4, 0.25, 30.0])
@pytest.mark.parametrize("min_scale", [0.0, 5e-5])
def test_sigma_starts_where_it_is_told(from_context, scale, min_scale):
    state = NormalState(SPECS["lstm"](), net(), scale, min_scale=min_scale, scale_from_context=from_context)
    found = state.distribution(torch.randn(1, 2))["h"]
    assert isinstance(found, Normal)
    torch.testing.assert_close(found.scale, torch.full((1, 2, 5), scale))


def test_any_initial_state_serves_as_the_mean():
    spec = SPECS["lstm"]()
    value = (torch.randn(2, 5), torch.randn(2, 5))
    means = [
        ConstantState(spec, value),
        FreeState(spec, value=value),
        LeafwiseState(spec, h=FreeState(spec["h"], value=value[0]), c=ConstantState(spec["c"], value[1])),
    ]
    for mean in means:
        state = NormalState(spec, mean, scale=0.5).eval()
        for leaf, expected in zip(state(batch_size=3), value, strict=True):
            assert torch.equal(leaf, expected[:, None].expand(2, 3, 5))
        assert state.kl().shape == ()
        assert state.kl(batch_size=3).shape == (3,)


@pytest.mark.parametrize("other", [nn.GRU(3, 5, num_layers=2), nn.LSTM(3, 5), nn.LSTM(3, 1, num_layers=2)], ids=str)
def test_a_mean_for_another_network_is_refused(other):
    with pytest.raises(ValueError, match=r"^encoder: expected"):
        NormalState(nn.LSTM(3, 5, num_layers=2), FreeState(other))


def test_a_distribution_of_means_that_are_not_finite_is_refused_by_leaf():
    with pytest.raises(
        ValueError, match=r"^context: expected one that gives finite means and positive scales in leaf 'h'"
    ):
        normal_state().distribution(torch.full((B, 2), torch.nan))

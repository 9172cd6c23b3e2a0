"""NormalState against sums written out by hand, and against its own samples."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

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
    "one state for all layers": lambda: state_spec(nn.LSTM(3, 5, num_layers=2)).shared(),
    "dense A": lambda: fast_weights_spec(FastWeightsCell(3, 5), "dense"),
}


def net():
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh())


def normal_state(case="lstm", **options):
    """In evaluation; no two contexts have one mean, nor one sigma where it comes from the context."""
    torch.manual_seed(0)
    state = NormalState(SPECS[case](), net(), **options).eval()
    if state.scale_heads is not None:
        for layer in state.scale_heads.layers.values():
            nn.init.normal_(layer.weight, std=0.5)
    return state


def by_hand(state, context):
    """Mean and sigma of every leaf, (B, *shape) each, from the parameters alone."""
    features = state.mean.net(context)
    for leaf in state.spec:
        head = state.mean.heads.layers[leaf.name]
        mean = (features @ head.weight.T + head.bias).view(-1, *leaf.shape)
        if state.scale_heads is None:
            raw = state.raw_scale[leaf.name].expand_as(mean)
        else:
            head = state.scale_heads.layers[leaf.name]
            raw = (features @ head.weight.T + head.bias).view(-1, *leaf.shape)
        yield leaf.name, mean.detach(), (state.min_scale + torch.log(1 + raw.exp())).detach()


@pytest.fixture(params=[False, True], ids=["sigma free", "sigma of the context"])
def from_context(request):
    return request.param


@pytest.mark.parametrize("case", SPECS)
def test_samples_of_each_context_have_its_mean_and_sigma(case, from_context):
    state, draws = normal_state(case, scale=0.4, scale_from_context=from_context), 10_000
    context = torch.tensor([[3.0, 0.0], [-3.0, 1.0], [0.0, -3.0]])
    sampled = state.sample(context, draws, generator=torch.Generator().manual_seed(0))
    samples = state.spec.unpack(sampled)
    for name, mean, sigma in by_hand(state, context):
        rows = samples[name].unflatten(0, (3, draws))
        # Standard errors sigma / sqrt(n) and sigma / sqrt(2 n); five of each.
        assert ((rows.mean(1) - mean) / sigma).abs().max() < 5 / math.sqrt(draws)
        assert (rows.std(1) / sigma - 1).abs().max() < 5 / math.sqrt(2 * draws)
        assert (mean[0] - mean[1]).abs().max() > 0.2, "rows in another order would be seen"
        assert from_context == (not torch.allclose(sigma[0], sigma[1], rtol=0.2))


@pytest.mark.parametrize("case", SPECS)
def test_log_prob_and_kl_are_the_closed_forms(case, from_context):
    state = normal_state(case, scale=0.4, scale_from_context=from_context).double()
    context = torch.randn(B, 2, dtype=torch.float64)
    hx = state.sample(context, 1)
    log_prob = kl = kl_to_standard = torch.zeros(B, dtype=torch.float64)
    values = state.spec.unpack(hx)
    for name, mean, sigma in by_hand(state, context):
        axes = tuple(range(1, mean.ndim))
        surprise = (values[name] - mean) ** 2 / (2 * sigma**2)
        log_prob = log_prob + (-surprise - sigma.log() - math.log(2 * math.pi) / 2).sum(axes)
        kl = kl + (math.log(0.7) - sigma.log() + (sigma**2 + (mean - 0.2) ** 2) / (2 * 0.7**2) - 0.5).sum(axes)
        kl_to_standard = kl_to_standard + (-sigma.log() + (sigma**2 + mean**2) / 2 - 0.5).sum(axes)
    torch.testing.assert_close(state.log_prob(hx, context), log_prob)
    torch.testing.assert_close(state.kl(context, prior_mean=0.2, prior_scale=0.7), kl)
    torch.testing.assert_close(state.kl(context), kl_to_standard)
    torch.testing.assert_close(state.kl(context[1]), kl_to_standard[1])
    one = state.spec.pack({name: value[1] for name, value in values.items()})
    torch.testing.assert_close(state.log_prob(one, context[1]), log_prob[1])


def test_kl_is_the_mean_log_ratio_of_the_samples(from_context):
    state, draws = normal_state(scale=0.4, scale_from_context=from_context), 20_000
    context = torch.randn(2)
    hx = state.sample(context, draws, generator=torch.Generator().manual_seed(0))
    prior = sum((-(value**2) / 2 - math.log(2 * math.pi) / 2).sum((1, 2)) for value in state.spec.unpack(hx).values())
    ratio = state.log_prob(hx, context) - prior
    assert ratio.shape == (draws,)
    # A mean of n draws; five of its standard errors.
    assert abs(ratio.mean() - state.kl(context)) < 5 * ratio.std() / math.sqrt(draws)


def test_evaluation_takes_the_mean_and_training_draws_every_row_and_leaf_anew():
    state = normal_state()
    context = torch.randn(2)
    mean = {name: mean for name, mean, _ in by_hand(state, context[None])}
    for name, value in state.spec.unpack(state(context, B)).items():
        torch.testing.assert_close(value, mean[name].expand(B, 2, 5))
    h, c = state.train()(context, B)
    noise = [(h - mean["h"].transpose(0, 1)).flatten(), (c - mean["c"].transpose(0, 1)).flatten()]
    assert torch.cat(noise).unique().numel() == 2 * h.numel(), "no draw is used twice"


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


def test_reparameterised_gradient_reaches_mean_and_sigma():
    state = NormalState(nn.GRUCell(3, 5), FreeState(nn.GRUCell(3, 5)), scale=0.5)
    h = state(batch_size=B, generator=torch.Generator().manual_seed(0))
    epsilon = torch.randn(B, 5, generator=torch.Generator().manual_seed(0))
    cotangent = torch.randn(B, 5)
    h.backward(cotangent)
    torch.testing.assert_close(state.mean.values["h"].grad, cotangent.sum(0))
    slope = torch.sigmoid(state.raw_scale["h"].detach())
    torch.testing.assert_close(state.raw_scale["h"].grad, (cotangent * epsilon).sum(0) * slope)


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
    with pytest.raises(ValueError, match=r"^net: expected"):
        NormalState(nn.LSTM(3, 5, num_layers=2), FreeState(other))

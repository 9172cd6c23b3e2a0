"""Missing contexts: what is dropped, for whom, how often, and how strongly the context counts."""

import pytest
import torch
from tests.networks import SPECS, make, tensors_of
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    NormalState,
    generate,
    state_spec,
)

B = 64


def states(spec, p=0.5, **options):
    """A state with contexts, the null beside it, no unit of it zero, and both together."""
    torch.manual_seed(0)
    null = FreeState(spec, value=spec.pack({leaf.name: torch.randn(leaf.shape) for leaf in spec}))
    state = ContextState(spec, nn.Sequential(nn.Linear(2, 6), nn.Tanh()))
    return state, null, ContextDropout(state, p, null=null, **options)


def dropped_rows(spec, dropout, state, null, context, generator=None):
    """Which rows got the null state; every row and leaf is exactly one of the two."""
    drawn = spec.unpack(dropout(context, generator=generator))
    given, missing = spec.unpack(state(context)), spec.unpack(null(None, len(context)))
    rows = []
    for name, leaf in drawn.items():
        is_null = (leaf == missing[name]).flatten(1).all(1)
        assert torch.equal(is_null, ~(leaf == given[name]).flatten(1).all(1)), "a row is either of the two, whole"
        rows.append(is_null)
    assert all(torch.equal(rows[0], other) for other in rows), "leaves are dropped together"
    return rows[0]


@pytest.mark.parametrize("case", SPECS)
def test_training_drops_whole_rows_and_evaluation_none(case):
    _, spec = make(case)
    state, null, dropout = states(spec)
    context = torch.randn(B, 2)
    rows = dropped_rows(spec, dropout, state, null, context)
    assert 16 <= rows.sum() <= 48, "four sigma around one half"
    assert not dropped_rows(spec, dropout.eval(), state, null, context).any()


@pytest.mark.parametrize(("p", "expected"), [(0.0, 0), (1.0, B)])
def test_p_at_its_ends(p, expected):
    spec = state_spec(nn.LSTM(3, 5))
    state, null, dropout = states(spec, p)
    assert dropped_rows(spec, dropout, state, null, torch.randn(B, 2)).sum() == expected


def test_share_dropped():
    spec = state_spec(nn.GRUCell(3, 5))
    state, null, dropout = states(spec, 0.1)
    share = dropped_rows(spec, dropout, state, null, torch.randn(10_000, 2), torch.Generator().manual_seed(0))
    assert share.float().mean() == pytest.approx(0.1, abs=0.012)  # four sigma


@pytest.mark.parametrize("training", [True, False])
def test_without_a_context_it_is_the_null_state(training):
    network = nn.LSTM(3, 5, batch_first=True)
    _, null, dropout = states(state_spec(network))
    dropout.train(training)
    assert all(map(torch.equal, tensors_of(dropout(None, 4)), tensors_of(null(None, 4))))
    x = torch.randn(4, 6, 3)
    output, _ = ContextualRNN(network, dropout)(x)
    assert torch.equal(output, network(x, null(None, 4))[0])


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.5])
def test_guidance_moves_the_mean_in_evaluation_alone(guidance):
    spec = state_spec(nn.LSTM(3, 5))
    mean, null, _ = states(spec)
    normal = NormalState(spec, mean)
    dropout = ContextDropout(normal, 0.0, null=null, guidance=guidance)
    context = torch.randn(B, 2)
    guided = dropout.eval().moments(context, None, None)
    for name, (given, scale) in normal.moments(context, None, None).items():
        missing = null.moments(None, B, None)[name].mean
        torch.testing.assert_close(guided[name].mean, missing + guidance * (given - missing))
        assert torch.equal(guided[name].scale, scale)
    unguided = dropout.train().moments(context, None, None)
    assert all(
        torch.equal(unguided[name].mean, leaf.mean) for name, leaf in normal.moments(context, None, None).items()
    )


def test_dropped_rows_give_the_null_its_gradient_and_the_context_none():
    spec = state_spec(nn.LSTM(3, 5))
    state, null, dropout = states(spec)
    context = torch.randn(B, 2, requires_grad=True)
    rows = dropped_rows(spec, dropout, state, null, context, torch.Generator().manual_seed(3))
    leaves = spec.unpack(dropout(context, generator=torch.Generator().manual_seed(3)))
    cotangents = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}
    sum((leaf * cotangents[name]).sum() for name, leaf in leaves.items()).backward()
    assert torch.equal(context.grad.abs().sum(1) == 0, rows)
    for name, cotangent in cotangents.items():
        torch.testing.assert_close(null.values[name].grad, cotangent[rows].sum(0))


def test_one_example_and_one_context_for_a_batch():
    spec = state_spec(nn.LSTM(3, 5, num_layers=2))
    _, _, dropout = states(spec)
    h, c = dropout(torch.randn(2))
    assert h.shape == c.shape == (2, 5)
    h, _ = dropout(torch.randn(2), 32)
    assert len({tuple(row.tolist()) for row in h[0]}) == 2, "one context, dropped for some rows of the batch"


def test_draws_around_a_null_that_varies_too():
    torch.manual_seed(0)
    spec = state_spec(nn.GRU(3, 5, batch_first=True))
    null = NormalState(spec, FreeState(spec, value=3.0), scale=0.5)
    dropout = ContextDropout(NormalState(spec, nn.Linear(2, 4), scale=0.25), null=null)
    drawn = dropout.eval().sample(None, 4000, batch_size=1)
    assert drawn.shape == (1, 4000, 5)
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.02)


def test_generates_with_and_without_a_context():
    network = nn.GRUCell(1, 5)
    _, null, dropout = states(state_spec(network))
    model = ContextualRNN(network, dropout)
    step, first = (lambda output, value: output[:, :1]), torch.zeros(3, 1)
    without = generate(model, step, first, num_steps=4)
    expected = generate(ContextualRNN(network, null), step, first, num_steps=4)
    assert torch.equal(without, expected)
    assert not torch.equal(generate(model, step, first, num_steps=4, context=torch.randn(3, 2)), without)


def test_bad_arguments():
    spec = state_spec(nn.LSTM(3, 5))
    state = ContextState(spec, nn.Linear(2, 4))
    with pytest.raises(TypeError, match="state: expected an InitialState, got Linear"):
        ContextDropout(nn.Linear(2, 4))
    with pytest.raises(TypeError, match="null: expected an InitialState, got float"):
        ContextDropout(state, null=0.0)
    with pytest.raises(ValueError, match=r"null: expected a state for \(h of shape"):
        ContextDropout(state, null=ConstantState(nn.GRU(3, 5)))
    with pytest.raises(ValueError, match="null: expected a state without a context, got ContextState"):
        ContextDropout(state, null=ContextState(spec, nn.Linear(2, 4)))
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="p: expected a number from 0 to 1"):
            ContextDropout(state, p)
    with pytest.raises(TypeError, match="guidance: expected a finite number"):
        ContextDropout(state, guidance="strong")
    dropout = ContextDropout(state).eval()
    dropout.guidance = float("inf")
    with pytest.raises(ValueError, match="guidance: expected a finite number"):
        dropout(torch.randn(4, 2))
    with pytest.raises(ValueError, match="context: expected a batch of 5, as the input has, got 4"):
        ContextDropout(state)(torch.randn(4, 2), 5)

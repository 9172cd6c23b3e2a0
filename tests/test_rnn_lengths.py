"""Every sequence of a padded or packed batch is as if alone, forwards and backwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks import SPECS, make, make_input
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from contextual_rnn import ContextState, ContextualRNN, state_spec

B, T = 4, 6  # the longest sequence is shorter than the batch
LENGTHS = torch.tensor([2, 5, 1, 4])
SEQUENCES = [name for name in SPECS if "cell" not in name]


def alone(model, x, context, row):
    """What the model makes of one sequence, cut to its length, run by itself."""
    batch_first = model.network.batch_first
    one = x[row : row + 1, : LENGTHS[row]] if batch_first else x[: LENGTHS[row], row : row + 1]
    output, state = model(one, context=context[row : row + 1])
    return output.squeeze(0 if batch_first else 1), state_spec(model).unpack(state)


@pytest.mark.parametrize("case", SEQUENCES)
@pytest.mark.parametrize("how", ["lengths", "packed", "packed sorted"])
def test_every_sequence_is_as_if_alone(case, how):
    network, spec = make(case, torch.float64)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6).double()))
    x, context = make_input(network, B, T, torch.float64), torch.randn(B, 2, dtype=torch.float64)
    batch_dim = 0 if network.batch_first else 1
    order = torch.arange(B)
    if how == "lengths":
        output, state = model(x, context=context, lengths=LENGTHS)
        assert output.shape[:2] == x.shape[:2]
    else:
        if how == "packed sorted":
            order = LENGTHS.argsort(descending=True)
        ordered = x.index_select(batch_dim, order)
        packed = pack_padded_sequence(
            ordered, LENGTHS[order], batch_first=network.batch_first, enforce_sorted=how == "packed sorted"
        )
        output, state = model(packed, context=context[order])
        assert isinstance(output, PackedSequence)
        output, lengths = pad_packed_sequence(output, batch_first=network.batch_first, total_length=T)
        assert torch.equal(lengths, LENGTHS[order])
    leaves = state_spec(network).unpack(state)
    for place, row in enumerate(order.tolist()):
        expected, expected_state = alone(model, x, context, row)
        found = output.select(batch_dim, place)
        torch.testing.assert_close(found[: LENGTHS[row]], expected, rtol=1e-12, atol=1e-12)
        assert not found[LENGTHS[row] :].any()
        for name, leaf in expected_state.items():
            torch.testing.assert_close(leaves[name][place], leaf[0], rtol=1e-12, atol=1e-12)


PADDED = [
    (case, padding)
    for case in ("rnn deep both ways", "lstm projected", "gru", "fast weights", "fast weights, low-rank A")
    for padding in (1e6, torch.nan, torch.inf)
]


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize(("case", "padding"), PADDED)
@given(lengths=st.lists(st.integers(1, T), min_size=1, max_size=5))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_gradients_are_the_sums_of_those_alone_and_padding_is_not_read(case, padding, explicit, lengths):
    network, spec = make(case, torch.float64)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6).double()))
    batch, time = (0, 1) if network.batch_first else (1, 0)
    size = len(lengths)
    x, context = make_input(network, size, T, torch.float64), torch.randn(size, 2, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x.select(batch, row)[length:] = padding
    cotangents = {leaf.name: torch.randn(size, *leaf.shape, dtype=torch.float64) for leaf in state_spec(network)}
    given = {leaf.name: torch.randn(size, *leaf.shape, dtype=torch.float64).requires_grad_() for leaf in spec}
    leaves = [*given.values(), *network.parameters()] if explicit else list(model.parameters())

    def gradients(rows, **options):
        steps = x.index_select(batch, rows).narrow(time, 0, options.pop("steps", T))
        hx = spec.pack({name: leaf[rows] for name, leaf in given.items()}) if explicit else None
        output, state = model(steps, hx, context=context[rows], **options)
        final = state_spec(network).unpack(state)
        loss = output.sin().sum() + sum((cotangents[name][rows] * leaf).sum() for name, leaf in final.items())
        return torch.autograd.grad(loss, leaves)

    found = gradients(torch.arange(size), lengths=torch.tensor(lengths))
    alone = [gradients(torch.tensor([row]), steps=length) for row, length in enumerate(lengths)]
    # Sums of a few hundred terms of size 1 in float64, in another order.
    torch.testing.assert_close(found, tuple(map(sum, zip(*alone, strict=True))), rtol=1e-10, atol=1e-12)


def test_contexts_follow_their_sequences_through_sorting():
    lstm = nn.LSTM(3, 4)
    model = ContextualRNN(lstm, ContextState(lstm, nn.Identity(), features=2))
    packed = pack_padded_sequence(make_input(lstm, B, T), LENGTHS, enforce_sorted=False)
    context = torch.randn(B, 2, requires_grad=True)
    _, (h, _) = model(packed, context=context)
    for row in range(B):
        (grad,) = torch.autograd.grad(h[0, row].sum(), context, retain_graph=True)
        assert grad[row].any()
        assert not grad[torch.arange(B) != row].any()

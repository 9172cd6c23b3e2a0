"""Every sequence of a padded or packed batch is as if alone, forwards and backwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks import SPECS, make, make_input, tensors_of
from tests.own_networks import LeakyIntegrator
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from contextual_rnn import ContextState, ContextualRNN, FastWeightsRNN, LowRank, state_spec

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


@pytest.mark.parametrize("steps", [T, 0])
@pytest.mark.parametrize("how", ["lengths", "mask"])
@pytest.mark.parametrize("case", [*SEQUENCES, "own"])
def test_a_batch_without_a_step_ends_as_it_starts(case, how, steps):
    network, spec = make(case, torch.float64) if case != "own" else (LeakyIntegrator().double(), None)
    spec = state_spec(network).like(next(network.parameters())) if spec is None else spec
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6).double()))
    if case.startswith("fast"):
        network.return_fast_weights = True
    time_first = state_spec(network).input_batch_dim == 1
    x, context = torch.full((B, steps, 3), torch.nan, dtype=torch.float64), torch.randn(B, 2, dtype=torch.float64)
    mask = torch.zeros(B, steps, dtype=torch.bool)
    given = (
        {"mask": mask.T if time_first else mask} if how == "mask" else {"lengths": torch.zeros(B, dtype=torch.int64)}
    )
    output, state = model(x.transpose(0, 1) if time_first else x, context=context, **given)
    assert output.shape[:2] == ((steps, B) if time_first else (B, steps))
    assert not output.any()
    start = model.initial_state(context)
    if case.startswith("fast"):
        assert state[1].shape == (B, 5, 5)
        dense = torch.zeros_like(state[1]) if start[1] is None else start[1]
        start = start[0], dense.dense() if isinstance(dense, LowRank) else dense
    assert all(map(torch.equal, tensors_of(state), tensors_of(start)))
    (output.sum() + sum(tensor.sum() for tensor in tensors_of(state))).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert not any(parameter.grad.any() for parameter in network.parameters())
    assert next(model.initial_state.parameters()).grad.any()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("a0", ["none", "dense"])
def test_fast_weights_take_lengths_of_0(batch_first, a0):
    network = FastWeightsRNN(3, 5, batch_first=batch_first, return_fast_weights=True)
    h0, lengths = torch.randn(B, 5, requires_grad=True), torch.tensor([0, 6, 0, 2])
    a0 = None if a0 == "none" else torch.randn(B, 5, 5)
    x = torch.randn(B, T, 3)
    x[[0, 2]] = torch.nan
    output, (h_n, a_n) = network(x if batch_first else x.transpose(0, 1), (h0, a0), lengths=lengths)
    output = output if batch_first else output.transpose(0, 1)
    assert torch.equal(h_n[[0, 2]], h0[[0, 2]])
    assert torch.equal(a_n[[0, 2]], torch.zeros(2, 5, 5) if a0 is None else a0[[0, 2]])
    assert not output[[0, 2]].any()
    torch.testing.assert_close(h_n[[1, 3]], output[[1, 3], [5, 1]])
    (grad,) = torch.autograd.grad((h_n[[0, 2]] * 3).sum(), h0)
    assert torch.equal(grad, torch.tensor([3.0, 0, 3, 0])[:, None].expand(4, 5))
    _, (h_n, _) = network(x if batch_first else x.transpose(0, 1), lengths=torch.zeros(B, dtype=torch.int32))
    assert not h_n.any()


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

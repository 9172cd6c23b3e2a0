"""ContextualRNN is the bare network, bit for bit, given the state; and every sequence of a batch is as if alone."""

import copy
import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks import SPECS, is_cell, make, make_input, tensors_of
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from contextual_rnn import ConstantState, ContextState, ContextualRNN, FreeState, NormalState, state_spec

B, T = 4, 5
LENGTHS = torch.tensor([2, 5, 1, 4])


def variants():
    """Every combination of kind, layers, directions, bias, batch_first and projection."""
    flags = itertools.product(
        [nn.RNN, nn.GRU, nn.LSTM], [1, 2], [False, True], [False, True], [False, True], [0, 2]
    )  # fmt: skip
    for kind, layers, both_ways, bias, batch_first, proj_size in flags:
        if not proj_size or kind is nn.LSTM:
            options = {"num_layers": layers, "bidirectional": both_ways, "bias": bias, "batch_first": batch_first}
            yield kind, options | ({"proj_size": proj_size} if proj_size else {})
    for cell, bias in itertools.product([nn.RNNCell, nn.GRUCell, nn.LSTMCell], [False, True]):
        yield cell, {"bias": bias}


def outcome(call, network, x, hx=None):
    """Outputs, final state, and the gradients of input, parameters and given state under random cotangents."""
    network.zero_grad()
    leaf = x.data if isinstance(x, PackedSequence) else x
    leaf = leaf.clone().requires_grad_()
    x = x._replace(data=leaf) if isinstance(x, PackedSequence) else leaf
    given = [tensor.requires_grad_() for tensor in tensors_of(hx)]
    output = call(x, hx)
    if isinstance(output, tuple) and isinstance(output[0], PackedSequence):
        output = (output[0].data, *output[1:])
    tensors = tensors_of(output)
    torch.manual_seed(7)
    loss = sum((tensor * torch.randn_like(tensor)).sum() for tensor in tensors)
    return [*tensors, *torch.autograd.grad(loss, [leaf, *network.parameters(), *given])]


def inputs(network):
    yield make_input(network, B, T)
    yield make_input(network, None, T)
    if not is_cell(network):
        for enforce_sorted in (True, False):
            lengths = LENGTHS.sort(descending=True).values if enforce_sorted else LENGTHS
            x = make_input(network, B, T)
            yield pack_padded_sequence(x, lengths, batch_first=network.batch_first, enforce_sorted=enforce_sorted)


@pytest.mark.parametrize(("kind", "options"), list(variants()), ids=str)
@pytest.mark.parametrize("explicit", [False, True])
def test_with_zeros_or_an_explicit_state_it_is_the_bare_network_bit_for_bit(kind, options, explicit):
    torch.manual_seed(0)
    network = kind(3, 4, **options)
    # The initial state must not matter where an explicit one is given.
    model = ContextualRNN(network, ConstantState(network, 9.0 if explicit else 0.0))
    for x in inputs(network):
        hx = None
        if explicit:
            spec, batch = state_spec(network), None
            if isinstance(x, PackedSequence) or x.ndim == spec.input_ndim:
                batch = B
            lead = () if batch is None else (batch,)
            hx = spec.pack({leaf.name: torch.randn(*lead, *leaf.shape) for leaf in spec})
        found = outcome(lambda x, hx: model(x, hx), network, x, hx)
        expected = outcome(lambda x, hx: network(x, hx) if hx is not None else network(x), network, x, hx)
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("case", SPECS)
@pytest.mark.parametrize("kind", ["constant", "free", "context", "normal"])
@pytest.mark.parametrize("batch", [B, None])
def test_it_is_the_bare_network_given_the_state(case, kind, batch):
    network, spec = make(case)
    value = spec.pack({leaf.name: torch.randn(leaf.shape) for leaf in spec})
    state = {
        "constant": lambda: ConstantState(spec, value),
        "free": lambda: FreeState(spec, noise=0.1, value=value),
        "context": lambda: ContextState(spec, nn.Linear(2, 6)),
        "normal": lambda: NormalState(spec, nn.Linear(2, 6)),
    }[kind]()
    model = ContextualRNN(network, state)
    context = torch.randn(*(() if batch is None else (batch,)), 2)
    x = make_input(network, batch, T)
    seed = torch.Generator().manual_seed(3)
    found = tensors_of(model(x, context=context, generator=seed))
    hx = model.initial_state(context, batch, batched=batch is not None, generator=torch.Generator().manual_seed(3))
    expected = tensors_of(network(x, hx))
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(found[0], tensors_of(network(x))[0]), "the state matters"


def by_hand(state, context):
    """The state of a two-way LSTM of two layers, written out from the parameters of an initial state."""
    for name, width in (("h", 2), ("c", 5)):
        if isinstance(state, ContextState):
            head = state.heads.layers[name]
            rows = functional.linear(
                torch.tanh(functional.linear(context, *state.net[0].parameters())), *head.parameters()
            )
            yield torch.stack([rows[:, width * layer : width * (layer + 1)] for layer in range(4)])
        else:
            value = state.values[name] if isinstance(state, FreeState) else getattr(state, f"value_{name}")
            yield torch.stack([value] * B, 1)


@pytest.mark.parametrize("kind", ["constant", "free", "context"])
def test_it_is_the_bare_network_given_the_state_by_hand(kind):
    torch.manual_seed(0)
    network = nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2, batch_first=True).double()
    value = torch.randn(4, 2), torch.randn(4, 5)
    state = {
        "constant": lambda: ConstantState(network, value),
        "free": lambda: FreeState(network, value=value),
        "context": lambda: ContextState(network, nn.Sequential(nn.Linear(2, 6), nn.Tanh()).double()),
    }[kind]()
    model = ContextualRNN(network, state)
    x, context = torch.randn(B, T, 3).double().requires_grad_(), torch.randn(B, 2).double().requires_grad_()
    leaves = [x, *model.parameters(), *([context] if kind == "context" else [])]
    outcomes = []
    for result in (model(x, context=context), network(x, tuple(by_hand(state, context)))):
        torch.manual_seed(7)
        loss = sum((tensor * torch.randn_like(tensor)).sum() for tensor in tensors_of(result))
        outcomes.append([*tensors_of(result), *torch.autograd.grad(loss, leaves)])
    # Sums of at most 100 terms of size 1 in float64, in another order.
    torch.testing.assert_close(*outcomes, rtol=1e-12, atol=1e-12)
    assert all(gradient.any() for gradient in outcomes[0][3:])


def test_an_explicit_state_wins_and_needs_no_context():
    lstm = nn.LSTM(3, 5)
    model = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 6)))
    x, hx = make_input(lstm, B, T), (torch.randn(1, B, 5), torch.randn(1, B, 5))
    expected = tensors_of(lstm(x, hx))
    for options in ({}, {"context": torch.randn(B, 2)}, {"lengths": torch.full((B,), T)}):
        found = tensors_of(model(x, hx, **options))
        assert all(map(torch.equal, found, expected))
    sum(tensor.sum() for tensor in found).backward()
    assert all(parameter.grad is None for parameter in model.initial_state.parameters())


def test_training_draws_evaluation_does_not_and_copies_agree():
    lstm = nn.LSTM(3, 5)
    model = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 6)))
    x, context = make_input(lstm, B, T).double(), torch.randn(B, 2).double()
    fresh = ContextualRNN(other := nn.LSTM(3, 5), NormalState(other, nn.Linear(2, 6)))
    fresh.load_state_dict(model.state_dict())
    models = [model.double(), copy.deepcopy(model), fresh.double()]

    def run(model, seed):
        return model(x, context=context, generator=torch.Generator().manual_seed(seed))[0]

    for model in models:
        assert torch.equal(run(model, 1), run(models[0], 1))
        assert not torch.equal(run(model, 1), run(model, 2))
    for model in models:
        assert torch.equal(run(model.eval(), 1), run(models[0].eval(), 2))


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


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("case", ["rnn deep both ways", "lstm projected", "gru", "fast weights, low-rank A"])
@given(lengths=st.lists(st.integers(1, T), min_size=1, max_size=5))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_gradients_are_the_sums_of_those_alone_and_padding_is_not_read(case, explicit, lengths):
    network, spec = make(case, torch.float64)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6).double()))
    batch, time = (0, 1) if network.batch_first else (1, 0)
    size = len(lengths)
    x, context = make_input(network, size, T, torch.float64), torch.randn(size, 2, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x.select(batch, row)[length:] = torch.nan
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


@pytest.mark.parametrize("name", ["rnn cell", "gru cell", "lstm cell", "own cell"])
def test_compiles_whole(name):
    torch._dynamo.reset()
    network, spec = make(name)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6)))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x, context = make_input(network, B), torch.randn(B, 2)
    assert all(map(torch.equal, tensors_of(compiled(x, context=context)), tensors_of(model(x, context=context))))


def test_fast_weights_compile_whole():
    """In a process of its own: the shape checks of the test run cannot be traced."""
    code = """
import torch
from torch import nn
from contextual_rnn import ContextState, ContextualRNN, FastWeightsRNN, fast_weights_spec
torch.manual_seed(0)
network = FastWeightsRNN(3, 5, batch_first=True)
model = ContextualRNN(network, ContextState(fast_weights_spec(network, "dense"), nn.Linear(2, 4)))
compiled = torch.compile(model, fullgraph=True, backend="eager")
x, context, results = torch.randn(6, 4, 3), torch.randn(6, 2), []
for run in (model, compiled):
    output, (h_n, _) = run(x, context=context)
    results.append([output, *torch.autograd.grad(output.square().sum() + h_n.sum(), list(model.parameters()))])
for plain, traced in zip(*results):
    torch.testing.assert_close(plain, traced)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_has_a_spec_of_its_own():
    lstm = nn.LSTM(3, 5)
    assert state_spec(ContextualRNN(lstm, FreeState(lstm))) == state_spec(lstm)

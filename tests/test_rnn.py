"""ContextualRNN is the bare network, bit for bit, given the state; and every sequence of a batch is as if alone."""

import itertools
import subprocess
import sys

import pytest
import torch
from tests.networks import SPECS, is_cell, make, make_input, tensors_of
from torch import nn
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


@pytest.mark.parametrize(("kind", "options"), variants(), ids=str)
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


LSTM = nn.LSTM(3, 5)
MODEL = ContextualRNN(LSTM, ContextState(LSTM, nn.Linear(2, 6)))
X, CONTEXT = torch.randn(T, B, 3), torch.randn(B, 2)
H = torch.zeros(1, B, 5)
BAD_CALLS = [
    (lambda: MODEL(X), ValueError, "context: expected .* got None"),
    (lambda: MODEL(X, context=CONTEXT[:3]), ValueError, "context: expected a batch of 4, as the input has, got 3"),
    (lambda: MODEL(X[:, 0], context=CONTEXT), ValueError, "context: expected one unbatched example"),
    (lambda: MODEL(X[0, 0], context=CONTEXT), ValueError, "input: expected 3 axes"),
    (lambda: MODEL(X, H, context=CONTEXT), TypeError, "state: expected"),
    (lambda: MODEL(X, (H, H[:, :3])), ValueError, "state: expected leaves of one batch size"),
    (lambda: MODEL(X, (H[:, :3], H[:, :3])), ValueError, "hx: expected 'h' of batch size 4, as the input, got 3"),
    (lambda: MODEL(X, (H.double(), H)), ValueError, "hx: expected 'h' of torch.float32"),
    (lambda: MODEL(X, (H.to("meta"), H)), ValueError, "hx: expected 'h' of torch.float32 on cpu, got .* on meta"),
    (lambda: MODEL(X, context=CONTEXT, lengths=[2, 5, 1, 4]), TypeError, "lengths: expected a tensor"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS.float()), TypeError, "lengths: expected a tensor of int64"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS[:3]), ValueError, r"lengths: expected shape \(4,\)"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS - 1), ValueError, "lengths: expected 1 to 5, got 0 to 4"),
    (lambda: MODEL(X, context=CONTEXT, lengths=LENGTHS + 1), ValueError, "lengths: expected 1 to 5, got 2 to 6"),
    (lambda: MODEL(X[:, 0], context=CONTEXT[0], lengths=LENGTHS), ValueError, "lengths: expected only with a padded"),
    (lambda: ContextualRNN(nn.Linear(2, 2), FreeState(LSTM)), TypeError, "network: expected one with a registered"),
    (lambda: ContextualRNN(LSTM, nn.Linear(2, 2)), TypeError, "initial_state: expected an InitialState"),
    (lambda: ContextualRNN(LSTM, FreeState(nn.LSTM(3, 6))), ValueError, "initial_state: expected one for"),
    (lambda: ContextualRNN(LSTM, FreeState(nn.GRU(3, 5))), ValueError, "initial_state: expected one for"),
    (lambda: ContextualRNN(nn.GRU(3, 5), FreeState(LSTM)), ValueError, "initial_state: expected one for"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD_CALLS, ids=[words for _, _, words in BAD_CALLS])
def test_bad_calls_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", ["rnn cell", "gru cell", "lstm cell"])
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
    assert list(state_spec(MODEL)) == list(state_spec(LSTM))

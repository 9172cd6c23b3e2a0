"""ContextualRNN is the bare network, bit for bit, given the state."""

import copy
import itertools

import pytest
import torch
from tests.networks import SPECS, is_cell, make, make_input, skip_without_bfloat16, tensors_of
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from contextual_rnn import (
    ConstantState,
    ContextState,
    ContextualRNN,
    FastWeightsRNN,
    FreeState,
    Leaf,
    LeafwiseState,
    NormalState,
    StateSpec,
    fast_weights_spec,
    state_spec,
)

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
        torch.testing.assert_close(found, expected)  # lengths may have another kernel run it
        assert "lengths" in options or all(map(torch.equal, found, expected))
    sum(tensor.sum() for tensor in found).backward()
    assert all(parameter.grad is None for parameter in model.initial_state.parameters())


@pytest.mark.parametrize("case", ["lstm", "gru", "rnn cell", "lstm cell", "fast weights, low-rank A"])
@pytest.mark.parametrize("kind", [ContextState, NormalState, lambda spec, _: FreeState(spec, noise=0.1)])
@pytest.mark.parametrize("explicit", [None, torch.float32, torch.bfloat16])
def test_autocast_may_change_dtypes(case, kind, explicit):
    network, spec = make(case)
    model = ContextualRNN(network, kind(spec, nn.Linear(2, 6)))
    x, context = make_input(network, B, T), torch.randn(B, 2)
    skip_without_bfloat16(network, x)
    with torch.autocast("cpu", torch.bfloat16):
        hx = model.initial_state(context, B, generator=torch.Generator().manual_seed(0))
        if explicit is not None:
            hx = spec.pack({name: leaf.to(explicit) for name, leaf in spec.unpack(hx).items()})
        options = {"context": context, "generator": torch.Generator().manual_seed(0)}
        found = model(x, **options) if explicit is None else model(x, hx)
        assert all(map(torch.equal, tensors_of(found), tensors_of(network(x, hx))))


@pytest.mark.parametrize("move", [lambda module: module.double(), lambda module: module.to("meta")])
@pytest.mark.parametrize("order", [("network", "initial_state"), ("initial_state", "network"), ("",)], ids=str)
def test_network_and_initial_state_may_be_moved_together_or_one_after_the_other(move, order):
    lstm, spec = make("lstm")
    states = {"h": ContextState(spec["h"], nn.Linear(2, 6)), "c": FreeState(spec["c"])}
    model = ContextualRNN(lstm, LeafwiseState(spec, **states))

    def run(module):
        like = next(module.parameters())
        model(torch.randn(B, T, 3).to(like), context=torch.randn(B, 2).to(like))

    for name in order:
        move(model.get_submodule(name))
        if name == order[0] and name:
            with pytest.raises(ValueError, match=r"^initial_state: expected 'h' of torch.float\d\d on \w+, .* got"):
                run(model.initial_state)
    run(model)


class Quantised(nn.Module):
    """Its first parameter has another dtype than its state; the spec says which."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

    def forward(self, x, state):
        return x, state + (x @ self.table.to(x.dtype))[:, None]


@state_spec.register
def _(network: Quantised) -> StateSpec:
    return StateSpec(Leaf("h", (2,)), dtype=torch.float64, device=network.table.device)


def test_the_spec_of_a_network_may_ask_for_another_dtype_than_its_first_parameter():
    model = ContextualRNN(network := Quantised(), FreeState(network, value=1.5))
    x = torch.randn(B, 3, dtype=torch.float64)
    _, state = model(x)
    assert torch.equal(state, network(x, torch.full((B, 2), 1.5).double())[1])
    with pytest.raises(ValueError, match=r"^initial_state: expected 'h' of torch.float64 on cpu, .* got torch.float32"):
        ContextualRNN(network, model.initial_state.float())(x)


@pytest.mark.parametrize("case", SPECS)
def test_an_empty_batch_is_the_bare_networks(case):
    network, spec = make(case)
    model = ContextualRNN(network, NormalState(spec, nn.Linear(2, 6)))
    x, context = make_input(network, 0), torch.randn(0, 2)
    options = [{}] if is_cell(network) else [{}, {"lengths": torch.zeros(0, dtype=torch.int64)}]
    for found in (model(x, context=context, **more) for more in options):
        for tensor, expected in zip(tensors_of(found), tensors_of(network(x)), strict=True):
            assert tensor.shape == expected.shape


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


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["rnn cell", "gru cell", "lstm cell", "own cell"])
def test_compiles_whole(name, autocast):
    torch._dynamo.reset()
    network, spec = make(name)
    model = ContextualRNN(network, ContextState(spec, nn.Linear(2, 6)))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x, context = make_input(network, B), torch.randn(B, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = compiled(x, context=context), model(x, context=context)
    assert all(map(torch.equal, tensors_of(found), tensors_of(expected)))


def test_fast_weights_compile_whole(traceable):
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = FastWeightsRNN(3, 5, batch_first=True)
    model = ContextualRNN(network, ContextState(fast_weights_spec(network, "dense"), nn.Linear(2, 4))).double()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x, context, results = torch.randn(6, 4, 3).double(), torch.randn(6, 2).double(), []
    for run in (model, compiled):
        output, (h_n, _) = run(x, context=context)
        results.append([output, *torch.autograd.grad(output.square().sum() + h_n.sum(), list(model.parameters()))])
    for plain, traced in zip(*results, strict=True):
        torch.testing.assert_close(plain, traced)


def test_model_has_a_spec_of_its_own():
    lstm = nn.LSTM(3, 5)
    assert state_spec(ContextualRNN(lstm, FreeState(lstm))) == state_spec(lstm)

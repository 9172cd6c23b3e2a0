"""Tensors that are made beside a given one are made on its device, whatever the default device is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from tests.networks import Springs
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import contextual_rnn
from contextual_rnn import (
    AdditiveAttention,
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FastWeightsCell,
    FastWeightsRNN,
    FreeState,
    LowRank,
    NormalState,
    SumState,
    generate,
    sequence_cross_entropy,
    state_spec,
    truncated,
)
from contextual_rnn.diagnostics import diagnose_state
from contextual_rnn.experiments.tasks.retrieval import retrieval_data
from contextual_rnn.layers.context_net import Categorical, ContextNet, Continuous, SetValued
from contextual_rnn.ops import BACKENDS, fast_weights

B, T, I, H, R = 3, 6, 4, 5, 2  # noqa: E741

# Those that torch.device("meta") redirects; torch.utils._device has the list.
FACTORIES = {
    "arange", "as_tensor", "asarray", "empty", "empty_permuted", "empty_quantized", "empty_strided", "eye", "full",
    "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm", "range", "scalar_tensor",
    "sparse_coo_tensor", "sparse_csr_tensor", "tensor", "tril_indices", "triu_indices", "vander", "zeros",
}  # fmt: skip


def test_every_call_of_a_factory_says_the_device():
    """Or takes it among **arguments: what is left to the default lies elsewhere one day."""
    root = Path(contextual_rnn.__file__).parent
    silent = []
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            factory = node.func.attr in FACTORIES and ast.unparse(node.func.value) == "torch"
            if factory and not any(keyword.arg in ("device", None) for keyword in node.keywords):
                silent.append(f"{file.relative_to(root)}:{node.lineno}: {ast.unparse(node)}")
    assert not silent, "\n".join(silent)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), device="cpu")


def states(kind, rows=B):
    low_rank = LowRank(draw(rows, R, H, seed=3), draw(rows, R, H, seed=4))
    a0 = {"zero": None, "dense": draw(rows, H, H, seed=2), "low_rank": low_rank}
    return draw(rows, H, seed=1), a0[kind]


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for child in children for tensor in tensors_in(child)]


def check(call):
    """`call` gives the same tensors, to the last bit, whatever the default device is."""
    expected = tensors_in(call())
    assert expected
    with torch.device("meta"):
        actual = tensors_in(call())
    assert [tensor.device.type for tensor in actual] == ["cpu"] * len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


def with_gradients(call, *inputs):
    """Outputs of `call`, and the gradients of all inputs for a random cotangent on each output."""

    def run():
        outputs = tensors_in(call())
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        cotangents = [draw(*output.shape, seed=50 + k) for k, output in enumerate(outputs)]
        return outputs, torch.autograd.grad(outputs, wanted, cotangents)

    return run


@pytest.mark.parametrize("backend", sorted(set(BACKENDS) - {"triton"}))
@pytest.mark.parametrize("a0", ["zero", "dense", "low_rank"])
@pytest.mark.parametrize("steps", [T, 3 * H], ids=["one chunk", "chunks"])
def test_the_recurrence(backend, a0, steps):
    inputs, weight = draw(B, steps, H), draw(H, H, seed=5)
    h0, fast = states(a0)
    leaves = [tensor.requires_grad_() for tensor in tensors_in([inputs, weight, h0, fast])]
    lengths = torch.tensor([1, steps, 2])
    options = {"decay": 0.7123, "rate": 0.4, "lengths": lengths, "return_fast_weights": True, "backend": backend}
    check(with_gradients(lambda: fast_weights(inputs, weight, h0, fast, **options), *leaves))


@pytest.mark.parametrize("kind", [FastWeightsRNN, FastWeightsCell])
def test_networks(kind):
    network = kind(I, H)
    x = draw(T, B, I) if kind is FastWeightsRNN else draw(B, I)
    hx = states("dense")
    leaves = [x.requires_grad_(), *hx, *network.parameters()]
    check(with_gradients(lambda: network(x, hx), *leaves))
    check(lambda: network(x.detach()))


@pytest.mark.parametrize("hooked", [False, True], ids=["native", "module by module"])
def test_a_loss_over_tokens(hooked):
    torch.manual_seed(0)
    network = FastWeightsRNN(I, H, batch_first=True)
    modules = nn.Embedding(7, I), network, nn.Linear(H, H), nn.Linear(H, 7)
    if hooked:
        modules[2].register_forward_hook(lambda *_: None)
    tokens, targets, hx = torch.randint(7, (B, T)), torch.randint(7, (B,)), states("low_rank")
    leaves = [parameter for module in modules for parameter in module.parameters()]
    leaves += [tensor.requires_grad_() for tensor in tensors_in(hx)]
    check(with_gradients(lambda: sequence_cross_entropy(tokens, targets, *modules, hx), *leaves))


def test_attention():
    attention = AdditiveAttention(I, H, 6)
    query, keys = draw(B, 2, I).requires_grad_(), draw(B, T, H, seed=1).requires_grad_()
    lengths, mask = torch.tensor([1, T, 4]), draw(B, T, seed=2) > -1
    mask[:, 0] = True
    leaves = query, keys, *attention.parameters()
    check(with_gradients(lambda: attention(query, keys, lengths=lengths, mask=mask), *leaves))


def test_context_net():
    rows = {"crop": ["rye", "oats", "rye"], "rain": [1.0, 2.0, 4.0], "tags": [["a"], [], ["a", "b"]]}
    features = {"crop": Categorical(("rye", "oats")), "rain": Continuous(2.0, 1.0), "tags": SetValued(("a", "b"))}
    net = ContextNet(features)
    check(lambda: net(net.encode(rows)))
    with torch.device("meta"):
        assert Continuous.fit([1.0, 2.0, 4.0]).mean == pytest.approx(7 / 3)


def test_diagnostics():
    lstm, state = nn.LSTM(I, H, batch_first=True), (draw(1, B, H), draw(1, B, H, seed=1))
    x, lengths = draw(B, T, I, seed=2), torch.tensor([2, T, 4])

    def diagnosis():
        found = diagnose_state(lambda s: lstm(x, s)[0].square().sum(-1), state, lstm, permutations=5, lengths=lengths)
        return [found.losses, found.influence.leaves, torch.tensor(found.p_value, device="cpu")]

    check(diagnosis)


def test_data_of_the_tasks():
    check(lambda: retrieval_data(20, 3, generator=torch.Generator().manual_seed(0)))


INITIAL = {
    "constant": lambda lstm: ConstantState(lstm, 0.5),
    "free": lambda lstm: FreeState(lstm, noise=0.1),
    "context": lambda lstm: ContextState(lstm, nn.Linear(2, 6)),
    "normal": lambda lstm: NormalState(lstm, nn.Linear(2, 6)),
    "scaled normal": lambda lstm: NormalState(lstm, nn.Linear(2, 6), scale_from_context=True),
    "sum": lambda lstm: SumState([FreeState(lstm, noise=0.1), NormalState(lstm, nn.Linear(2, 6))], [0.5, 1]),
    "dropout": lambda lstm: ContextDropout(NormalState(lstm, nn.Linear(2, 6)), 0.5),
}


def seeded(call):
    def run():
        torch.manual_seed(0)
        return call()

    return run


@pytest.mark.parametrize("kind", INITIAL)
def test_initial_states(kind):
    state, context = INITIAL[kind](nn.LSTM(I, H)), draw(B, 2)
    check(seeded(lambda: state(context, B)))
    check(lambda: state(context, B, generator=torch.Generator().manual_seed(3)))
    check(seeded(lambda: state.sample(context, 3, batch_size=B)))
    check(seeded(lambda: state(context, B, rows=torch.tensor([2, 0], device="cpu"))))
    check(lambda: state.eval()(context, B))


def test_densities():
    state, context = NormalState(nn.LSTM(I, H), nn.Linear(2, 6)), draw(B, 2)
    values = draw(1, B, H), draw(1, B, H, seed=1)
    check(lambda: state.kl(context))
    check(lambda: state.log_prob(values, context))
    check(lambda: [(normal.loc, normal.scale, normal.mean) for normal in state.distribution(context).values()])


NETWORKS = {
    "lstm": lambda: nn.LSTM(I, H),
    "gru": lambda: nn.GRU(I, H, batch_first=True),
    "gru both ways": lambda: nn.GRU(I, H, bidirectional=True),
    "fast weights": lambda: FastWeightsRNN(I, H),
}


STATES = {
    "a context": lambda spec: ContextState(spec, nn.Linear(2, 6)),
    "draws": lambda spec: FreeState(spec, noise=0.1),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", STATES)
def test_sequences_in_every_form(name, kind):
    network, context = NETWORKS[name](), draw(B, 2)
    model = ContextualRNN(network, STATES[kind](state_spec(network).like(next(network.parameters()))))
    x, reset = draw(T, B, I), draw(T, B, seed=1) > 0
    lengths, mask = torch.tensor([2, 0, T]), torch.arange(T)[:, None] >= torch.tensor([2, 5, 0])
    packed = pack_padded_sequence(x, torch.tensor([T, 3, 2]))
    unsorted = pack_padded_sequence(x, torch.tensor([2, T, 4]), enforce_sorted=False)
    if getattr(network, "batch_first", False):
        x, reset, mask = (tensor.transpose(0, 1) for tensor in (x, reset, mask))
    leaves = [x.requires_grad_(), *model.parameters()]
    for form in ({}, {"lengths": lengths}, {"mask": mask}, {"reset": reset}, {"lengths": lengths, "reset": reset}):
        check(seeded(with_gradients(lambda form=form: model(x, context=context, **form), *leaves)))
    check(seeded(lambda: [model(packed, context=context, reset=reset)[0].data]))
    check(seeded(lambda: (lambda output, state: (output.data, state))(*model(unsorted, context=context))))
    if not getattr(network, "bidirectional", False):
        check(seeded(lambda: model(x, context=context, burn_in=2)))
        check(seeded(lambda: model(x, context=context, reset=reset, lengths=lengths, burn_in=2)))
        check(seeded(lambda: [output for _, output, _ in truncated(model, x, 4, context=context, lengths=lengths)]))


def test_a_cell_of_ones_own():
    network = Springs(I, H)
    model = ContextualRNN(network, ContextState(state_spec(network).like(next(network.parameters())), nn.Linear(2, 6)))
    x, reset = draw(B, I), draw(B, seed=1) > 0
    check(seeded(lambda: model(x, context=draw(B, 2), reset=reset)))


def test_networks_are_reset_on_their_device():
    network = FastWeightsRNN(I, H)
    check(seeded(lambda: (network.reset_parameters(), [p.detach().clone() for p in network.parameters()])[1]))


def test_generation():
    lstm = nn.LSTM(1, H, batch_first=True)
    model, readout = ContextualRNN(lstm, NormalState(lstm, nn.Linear(2, 4))), nn.Linear(H, 1)
    context, first = draw(B, 2), draw(B, 1, seed=1)

    def paths():
        generator = torch.Generator().manual_seed(0)
        step = lambda output, previous: previous + readout(output)  # noqa: E731
        return generate(model, step, first, num_steps=4, context=context, num_samples=2, generator=generator)

    check(paths)

"""(h, A) as a state like any other: every kind of A(0), set by every kind of initial state."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from contextual_rnn import (
    ConstantState,
    ContextState,
    ContextualRNN,
    FastWeightsCell,
    FastWeightsRNN,
    FreeState,
    LowRank,
    NormalState,
    fast_weights_spec,
    state_spec,
)
from contextual_rnn.spec import take_step

B, T, I, H, R = 4, 5, 3, 6, 2  # noqa: E741
KINDS = ("zero", "dense", "low_rank")
LEAVES = {"zero": {}, "dense": {"a": (H, H)}, "low_rank": {"a_left": (R, H), "a_right": (R, H)}}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomised(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def context_net():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh())


def one_example(kind):
    a = {"zero": None, "dense": torch.randn(H, H), "low_rank": LowRank(torch.randn(R, H), torch.randn(R, H))}
    return torch.randn(H), a[kind]


NETWORKS = {
    "batch_first": lambda: FastWeightsRNN(I, H, batch_first=True, return_fast_weights=True),
    "time_first": lambda: FastWeightsRNN(I, H, timing="wenke2019", return_fast_weights=True),
    "cell": lambda: FastWeightsCell(I, H),
}
STATES = {
    "constant": lambda spec, kind: ConstantState(spec, one_example(kind)),
    "free": lambda spec, kind: FreeState(spec, noise=0.1),
    "context": lambda spec, kind: ContextState(spec, context_net()),
    "normal": lambda spec, kind: NormalState(spec, context_net()),
    "normal_free": lambda spec, kind: NormalState(spec, FreeState(spec)),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=NETWORKS)
def network(request):
    return randomised(NETWORKS[request.param]())


@pytest.fixture(params=STATES)
def initial_state(request, network, kind):
    return randomised(STATES[request.param](fast_weights_spec(network, kind, R), kind))


@pytest.fixture
def x(network):
    return torch.randn(B, I) if isinstance(network, FastWeightsCell) else torch.randn(B, T, I)


def as_input(network, x):
    return x if isinstance(network, FastWeightsCell) or network.batch_first else x.transpose(0, 1)


def flat(result):
    """The tensors of what a network returned, None left out."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [] if result is None else [tensor for part in result for tensor in flat(part)]


def test_spec(network, kind):
    spec = fast_weights_spec(network, kind, R)
    assert [(leaf.name, leaf.shape) for leaf in spec] == [("h", (H,)), *LEAVES[kind].items()]
    assert (spec.dtype, spec.device) == (torch.float32, torch.device("cpu"))
    assert state_spec(network) == fast_weights_spec(network, "zero")
    assert [leaf.shape for leaf in fast_weights_spec(network, "low_rank")] == [(H,), (4, H), (4, H)]
    assert fast_weights_spec(network.double(), kind, R).dtype == torch.float64


def test_is_the_network_from_that_state(network, kind, initial_state, x):
    context, inputs = torch.randn(B, 2), as_input(network, x)
    hx = initial_state(context, B, generator=torch.Generator().manual_seed(1))
    assert hx[0].shape == (B, H)
    assert isinstance(hx[1], {"zero": type(None), "dense": torch.Tensor, "low_rank": LowRank}[kind])
    assert [tensor.shape[1:] for tensor in flat(hx[1])] == list(LEAVES[kind].values())
    model = ContextualRNN(network, initial_state)
    result = flat(model(inputs, context=context, generator=torch.Generator().manual_seed(1)))
    assert all(map(torch.equal, result, flat(network(inputs, hx))))
    assert not torch.allclose(result[0], flat(network(inputs))[0]), "the state matters"
    if kind != "zero":
        assert not torch.allclose(result[-1], flat(network(inputs, hx[0]))[-1]), "A(0) matters"
    other = torch.randn(B, H), torch.randn(B, H, H)
    assert all(map(torch.equal, flat(model(inputs, other, context=context)), flat(network(inputs, other))))


def test_one_example_without_a_batch(network, initial_state, x):
    model = ContextualRNN(network, initial_state.eval())
    context = torch.randn(B, 2)
    batched = flat(model(as_input(network, x), context=context))
    for b in range(B):
        single = flat(model(x[b], context=context[b]))
        at = [value.select(1 if value.ndim == 3 and value.shape[0] == T else 0, b) for value in batched]
        torch.testing.assert_close(single, at)


def test_gradients_reach_every_parameter_of_the_state(network, initial_state, x):
    output = flat(ContextualRNN(network, initial_state)(as_input(network, x), context=torch.randn(B, 2)))[0]
    (output * torch.randn(output.shape)).sum().backward()
    assert {name for name, p in initial_state.named_parameters() if p.grad is None or not p.grad.any()} == set()


@pytest.mark.parametrize("cut", ["lengths", "packed"])
def test_sequences_of_several_lengths(kind, cut):
    network = randomised(NETWORKS["batch_first"]())
    initial_state = randomised(ContextState(fast_weights_spec(network, kind, R), context_net()))
    model = ContextualRNN(network, initial_state)
    x, context, lengths = torch.randn(B, T, I), torch.randn(B, 2), torch.tensor([2, 5, 1, 5])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    _, (h_n, a_n) = model(x, context=context, lengths=lengths) if cut == "lengths" else model(packed, context=context)
    for b, length in enumerate(lengths.tolist()):
        _, alone = model(x[b : b + 1, :length], context=context[b : b + 1])
        torch.testing.assert_close((h_n[b], a_n[b]), (alone[0][0], alone[1][0]))


@pytest.mark.parametrize("kind", ["dense"])
@pytest.mark.parametrize("state", [ConstantState, FreeState])
def test_a_shared_matrix_is_tiled_without_copies(kind, state):
    network = NETWORKS["batch_first"]()
    h0, a0 = state(fast_weights_spec(network, kind))(batch_size=B)
    assert a0.shape == (B, H, H)
    assert a0.stride(0) == 0
    assert h0.is_contiguous()


def test_step_by_step(network, kind):
    spec = fast_weights_spec(network, kind, R)
    hx = randomised(FreeState(spec))(batch_size=B)
    x = torch.randn(B, T, I)
    if isinstance(network, FastWeightsCell):
        whole = FastWeightsRNN(I, H, batch_first=True)
        whole.load_state_dict(network.state_dict())
        expected = whole(x, hx)[0]
    else:
        expected = network(as_input(network, x), hx)[0]
        expected = expected if network.batch_first else expected.transpose(0, 1)
    for t in range(T):
        output, hx = take_step(network, spec, x[:, t], hx)
        torch.testing.assert_close(output, expected[:, t])


@pytest.mark.parametrize(
    "make",
    [
        lambda spec: FreeState(spec),
        lambda spec: ContextState(spec, context_net(), zero_init=True),
        lambda spec: NormalState(spec, context_net(), zero_init=True),
    ],
    ids=["free", "context", "normal"],
)
@pytest.mark.parametrize("kind", ["dense", "low_rank"])
def test_zero_at_first_and_yet_never_stuck(kind, make):
    """Two zero factors would have no gradient; here A(0) is zero at first and training moves it."""
    network = randomised(NETWORKS["batch_first"]())
    initial_state = make(fast_weights_spec(network, kind, R))
    model = ContextualRNN(network, initial_state)
    x, context, target = torch.randn(B, T, I), torch.randn(B, 2), torch.rand(B, T, H)

    def a0():
        a = initial_state.eval()(context, B)[1]
        return a.dense() if isinstance(a, LowRank) else a

    assert (a0() == 0).all()
    assert torch.equal(model(x, context=context)[0], network(x)[0])
    start = {name: p.detach().clone() for name, p in initial_state.named_parameters()}
    optimiser = torch.optim.Adam(initial_state.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        model.train()
        loss = (model(x, context=context)[0] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.eval()
        losses.append((model(x, context=context)[0] - target).square().mean().item())
    assert a0().abs().max() > 1e-3
    assert losses[-1] < losses[0]
    assert {name for name, p in initial_state.named_parameters() if torch.equal(p, start[name])} == set()


def test_low_rank_is_a_sum_of_outer_products():
    pair = LowRank(torch.randn(B, R, H), torch.randn(B, R, H))
    expected = sum(pair.left[:, r, :, None] * pair.right[:, r, None] for r in range(R))
    torch.testing.assert_close(pair.dense(), expected)

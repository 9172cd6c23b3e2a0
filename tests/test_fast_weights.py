"""FastWeightsRNN and FastWeightsCell: parameters, layouts and sequences around the recurrence (tested in ops)."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from contextual_rnn import FastWeightsCell, FastWeightsRNN, LowRank
from contextual_rnn.ops import TIMINGS, fast_weights

B, T, I, H, R = 4, 6, 3, 5, 2  # noqa: E741
DOUBLE = {"dtype": torch.float64}


def randomised(network):
    """Every parameter random: neither W = 0.05 I nor a gain of 1 may hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, **DOUBLE) * 0.6)
    return network


def make_rnn(**options):
    return randomised(FastWeightsRNN(I, H, **DOUBLE | {"batch_first": True, "return_fast_weights": True} | options))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def make_a0(kind, batch=B):
    low_rank = LowRank(0.5 * random(batch, R, H, seed=3), 0.5 * random(batch, R, H, seed=4))
    return {"none": None, "dense": 0.5 * random(batch, H, H, seed=5), "low_rank": low_rank}[kind]


def rows(state, index):
    """The state of some samples, or of one without the batch axis."""
    h0, a0 = state
    if isinstance(a0, LowRank):
        return h0[index], LowRank(*(part[index] for part in a0))
    return h0[index], None if a0 is None else a0[index]


@pytest.fixture
def x():
    return random(B, T, I, seed=1)


@pytest.fixture(params=["none", "dense", "low_rank"])
def state(request):
    return random(B, H, seed=2), make_a0(request.param)


@pytest.fixture(params=TIMINGS)
def timing(request):
    return request.param


OPTIONS = [
    {},
    {"bias": False},
    {"layer_norm": False, "rate": 0.1},
    {"elementwise_affine": False},
    {"inner_steps": 3, "decay": 0.7, "rate": 0.2, "eps": 0.1, "timing": "wenke2019"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_is_the_recurrence_over_projected_inputs(x, state, options):
    rnn = make_rnn(**options)
    defaults = {"inner_steps": 1, "decay": 0.95, "rate": 0.5, "eps": 1e-5, "timing": "ba2016", "layer_norm": True}
    told = {name: options.get(name, default) for name, default in defaults.items()}
    norm = {name: parameter for name, parameter in rnn.named_parameters() if name.startswith("norm")}
    assert bool(norm) == (told["layer_norm"] and options.get("elementwise_affine", True))
    projected = x @ rnn.weight_ih.mT + (0 if rnn.bias is None else rnn.bias)
    expected = fast_weights(
        projected, rnn.weight_hh, *state, **norm, **told, return_fast_weights=True, backend="reference"
    )
    output, (h_n, a_n) = rnn(x, state)
    torch.testing.assert_close((output, a_n), expected)
    assert torch.equal(h_n, output[:, -1])


def test_decay_and_rate_may_be_learned(x, state, timing):
    decay, rate = (nn.Parameter(torch.tensor(value, **DOUBLE)) for value in (0.8, 0.3))
    learned = FastWeightsRNN(I, H, decay=decay, rate=rate, timing=timing, batch_first=True, **DOUBLE)
    assert {"decay", "rate"} < set(dict(learned.named_parameters()))
    assert "decay=tensor" in repr(learned)
    fixed = FastWeightsRNN(I, H, decay=0.8, rate=0.3, timing=timing, batch_first=True, **DOUBLE)
    fixed.load_state_dict(learned.state_dict(), strict=False)
    output, _ = learned(x, state)
    torch.testing.assert_close(output, fixed(x, state)[0])
    output.square().sum().backward()
    assert decay.grad
    assert rate.grad
    with torch.no_grad():
        decay.fill_(1.2)
    with pytest.raises(ValueError, match=r"^decay: expected a number from 0 to 1, got 1.2"):
        learned(x, state)


@pytest.mark.parametrize("backend", ["reference", "attention"])
def test_backend_is_passed_on(x, state, backend, monkeypatch):
    called = []
    monkeypatch.setattr(
        "contextual_rnn.ops.fast_weights",
        lambda *a, **k: called.append(k["backend"]) or fast_weights(*a, **k),
    )
    make_rnn(backend=backend)(x, state)
    assert called == [backend]


@pytest.mark.parametrize("network", [FastWeightsRNN, FastWeightsCell])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parameters(network, options):
    """Names and shapes are those of saved files: to change one is to break them all."""
    made = network(100, H, **options)
    shapes = {"weight_ih": (H, 100), "weight_hh": (H, H)}
    shapes |= {} if options.get("bias") is False else {"bias": (H,)}
    if options.get("layer_norm", True) and options.get("elementwise_affine", True):
        shapes |= {"norm_weight": (H,), "norm_bias": (H,)}
    assert {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()} == shapes
    assert list(made.state_dict()) == list(shapes)
    for _ in range(2):
        assert torch.equal(made.weight_hh, 0.05 * torch.eye(H))
        uniform = torch.cat([made.weight_ih.flatten(), made.weight_ih[:, 0] if made.bias is None else made.bias])
        assert 0.09 < uniform.abs().max() <= 0.1, "uniform within 1 / sqrt(input_size)"
        assert uniform.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)
        if "norm_weight" in shapes:
            assert (made.norm_weight == 1).all()
            assert (made.norm_bias == 0).all()
        nn.init.constant_(made.weight_hh, 7.0)
        made.reset_parameters()


def test_layouts(x, state, timing):
    """Time first, without a batch: the same numbers."""
    rnn, time_first = make_rnn(timing=timing), make_rnn(timing=timing, batch_first=False)
    output, (h_n, a_n) = rnn(x, state)
    torch.testing.assert_close(time_first(x.transpose(0, 1), state), (output.transpose(0, 1), (h_n, a_n)))
    for b in range(B):
        for network in (rnn, time_first):
            torch.testing.assert_close(network(x[b], rows(state, b)), (output[b], (h_n[b], a_n[b])))


def each_alone(rnn, x, state, lengths):
    """(output, h_n, a_n) of every sequence run alone, unpadded."""
    results = []
    for b, length in enumerate(lengths.tolist()):
        output, (h_n, a_n) = rnn(x[b : b + 1, :length], rows(state, slice(b, b + 1)))
        results.append((output[0], h_n[0], a_n[0]))
    return results


@pytest.mark.parametrize("batch_first", [True, False])
def test_lengths(x, state, timing, batch_first):
    lengths = torch.tensor([2, 5, 1, 4])  # none as long as the batch
    alone = each_alone(make_rnn(timing=timing), x, state, lengths)
    rnn = make_rnn(timing=timing, batch_first=batch_first)
    output, (h_n, a_n) = rnn(x if batch_first else x.transpose(0, 1), state, lengths=lengths)
    output = output if batch_first else output.transpose(0, 1)
    assert output.shape == (B, T, H)
    for b, (expected, h, a) in enumerate(alone):
        torch.testing.assert_close(output[b, : lengths[b]], expected)
        assert (output[b, lengths[b] :] == 0).all()
        torch.testing.assert_close((h_n[b], a_n[b]), (h, a))


@pytest.mark.parametrize(
    ("lengths", "enforce_sorted"), [([6, 5, 2, 1], True), ([2, 6, 1, 6], False), ([3, 5, 1, 4], False)]
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_packed(x, state, timing, lengths, enforce_sorted, batch_first):
    lengths = torch.tensor(lengths)
    rnn = make_rnn(timing=timing, batch_first=batch_first)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=enforce_sorted)
    output, (h_n, a_n) = rnn(packed, state)
    like = nn.RNN(I, H, **DOUBLE)(packed)[0]
    assert torch.equal(output.batch_sizes, like.batch_sizes)
    for name in ("sorted_indices", "unsorted_indices"):
        assert str(getattr(output, name)) == str(getattr(like, name))
    unpacked, _ = pad_packed_sequence(output, batch_first=True)
    for b, (expected, h, a) in enumerate(each_alone(make_rnn(timing=timing), x, state, lengths)):
        torch.testing.assert_close(unpacked[b, : lengths[b]], expected)
        torch.testing.assert_close((h_n[b], a_n[b]), (h, a))


@pytest.mark.parametrize("inner_steps", [1, 2])
@pytest.mark.parametrize("cut", [1, 4])
def test_carried_state(x, state, timing, inner_steps, cut):
    """The cell stepped, and the sequence cut in two, equal the whole."""
    rnn = make_rnn(timing=timing, inner_steps=inner_steps)
    output, (h_n, a_n) = rnn(x, state)
    first, carried = rnn(x[:, :cut], state)
    second, final = rnn(x[:, cut:], carried)
    torch.testing.assert_close((torch.cat([first, second], 1), final), (output, (h_n, a_n)))

    cell = FastWeightsCell(I, H, timing=timing, inner_steps=inner_steps, **DOUBLE)
    cell.load_state_dict(rnn.state_dict())
    hx = state
    for t in range(T):
        hx = cell(x[:, t], hx)
        torch.testing.assert_close(hx[0], output[:, t])
    torch.testing.assert_close(hx, (h_n, a_n))

    hx = rows(state, 2)
    for t in range(T):
        hx = cell(x[2, t], hx)
    torch.testing.assert_close(hx, (h_n[2], a_n[2]))


@pytest.mark.parametrize("network", ["rnn", "cell"])
@pytest.mark.parametrize("batched", [True, False])
def test_forms_of_a_state(x, network, batched):
    """What is left out is zero; a list is as good as a tuple."""
    made = make_rnn() if network == "rnn" else randomised(FastWeightsCell(I, H, **DOUBLE))
    x = x if network == "rnn" else x[:, 0]
    h0, a0 = random(B, H, seed=2), make_a0("dense")
    zero_h, zero_a = torch.zeros_like(h0), torch.zeros_like(a0)
    if not batched:
        x, h0, a0, zero_h, zero_a = (tensor[0] for tensor in (x, h0, a0, zero_h, zero_a))
    same = [
        (None, (zero_h, zero_a)),
        (h0, (h0, zero_a)),
        ((h0, None), (h0, zero_a)),
        ([h0, a0], (h0, a0)),
        ((None, None), (zero_h, zero_a)),
        ((None, a0), (zero_h, a0)),
    ]
    for short, full in same:
        torch.testing.assert_close(made(x, short), made(x, full), msg=lambda text, short=short: f"{short}: {text}")
    torch.testing.assert_close(made(x), made(x, None))
    assert not torch.allclose(made(x, (h0, a0))[0], made(x, h0)[0])
    assert not torch.allclose(made(x, h0)[0], made(x)[0])


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
def test_final_fast_weights_only_where_asked_for(x, default, asked):
    _, (h_n, a_n) = make_rnn(return_fast_weights=default)(x, return_fast_weights=asked)
    assert h_n.shape == (B, H)
    assert (a_n is not None) == (default if asked is None else asked)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["rnn", "cell"])
def test_gradients_reach_every_parameter(x, state, kind, options):
    network = make_rnn(**options) if kind == "rnn" else randomised(FastWeightsCell(I, H, **DOUBLE, **options))
    output, _ = network(x if kind == "rnn" else x[:, 0], state)
    (output * random(*output.shape, seed=9)).sum().backward()
    assert {name for name, parameter in network.named_parameters() if not parameter.grad.any()} == set()


def test_copies_are_of_their_own(x, state):
    rnn = make_rnn()
    twin = copy.deepcopy(rnn)
    torch.testing.assert_close(twin(x, state), rnn(x, state), rtol=0, atol=0)
    nn.init.zeros_(twin.weight_ih)
    assert rnn.weight_ih.any()


@pytest.mark.parametrize("lengths", [None, torch.tensor([T, 1, 0, T])])
def test_a_final_state_may_be_overwritten(x, state, lengths):
    """As that of torch's networks: `h[done] = 0` changes no output, and autograd goes back all the same."""
    network = make_rnn()
    expected = torch.autograd.grad(network(x, state, lengths=lengths)[0].sum(), network.weight_hh)
    output, final = network(x, state, lengths=lengths)
    before = output.clone()
    for leaf in final:
        leaf[1] = 7.0
    torch.testing.assert_close(output, before, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), network.weight_hh), expected)


def test_dtype_and_device():
    assert {parameter.dtype for parameter in FastWeightsRNN(I, H).parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in FastWeightsRNN(I, H, **DOUBLE).parameters()} == {torch.float64}
    assert {parameter.device.type for parameter in FastWeightsCell(I, H, device="meta").parameters()} == {"meta"}
    output, (h_n, a_n) = make_rnn()(random(B, T, I))
    assert output.dtype == h_n.dtype == a_n.dtype == torch.float64


@pytest.mark.parametrize("kind", ["dense", "low_rank"])
def test_autocast(x, kind):
    """Where the projection, and a state out of a linear head, come in half precision, as nn.LSTM allows.

    bfloat16 keeps 8 bits, 0.4 % a rounding; layer norm passes it on several times over six steps.
    """
    rnn = make_rnn().float()
    x, h0, a0 = x.float(), random(B, H, seed=2).float(), make_a0(kind)
    parts = [part.float() for part in (a0 if isinstance(a0, LowRank) else [a0])]
    pack = LowRank if isinstance(a0, LowRank) else lambda part: part
    expected = rnn(x, (h0, pack(*parts)))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = rnn(x, (h0.bfloat16(), pack(*(part.bfloat16() for part in parts))))
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
    output.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in rnn.parameters())


def test_pack_sequence_of_one(x):
    rnn = make_rnn()
    output, _ = rnn(pack_sequence([x[0]]))
    torch.testing.assert_close(output.data, rnn(x[0])[0])

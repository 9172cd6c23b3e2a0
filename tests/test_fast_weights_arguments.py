"""FastWeightsRNN, FastWeightsCell and fast_weights_spec refuse bad arguments, naming them."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from contextual_rnn import ContextualRNN, FastWeightsCell, FastWeightsRNN, FreeState, LowRank, fast_weights_spec

B, T, I, H, R = 2, 4, 3, 5, 2  # noqa: E741
NETWORKS = {"rnn": FastWeightsRNN(I, H, batch_first=True), "cell": FastWeightsCell(I, H)}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


@pytest.fixture(params=[True, False], ids=["batched", "unbatched"])
def batched(request):
    return request.param


@pytest.fixture
def x(network, batched):
    x = torch.zeros(B, T, I) if isinstance(network, FastWeightsRNN) else torch.zeros(B, I)
    return x if batched else x[0]


@pytest.mark.parametrize("kind", [FastWeightsRNN, FastWeightsCell])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *((name, value, ValueError) for name in ("input_size", "hidden_size") for value in (0, -1)),
        *((name, value, TypeError) for name in ("input_size", "hidden_size") for value in (1.5, True, "3", None)),
        ("inner_steps", 0, ValueError),
        ("inner_steps", 1.0, TypeError),
        ("decay", 1.5, ValueError),
        ("rate", -1.0, ValueError),
        ("eps", 0.0, ValueError),
        ("timing", "2016", ValueError),
        ("backend", "fast", ValueError),
        ("layers", 2, TypeError),
        *((name, 2**63, ValueError) for name in ("input_size", "hidden_size", "inner_steps")),
        *((name, 2**61, ValueError) for name in ("input_size", "hidden_size", "inner_steps")),
        *((name, value, ValueError) for name in ("decay", "rate", "eps") for value in (10**400, Fraction(10**400))),
        *((name, Decimal("0.5"), TypeError) for name in ("decay", "rate", "eps")),
        *(
            (name, value, TypeError)
            for name in ("bias", "layer_norm", "elementwise_affine")
            for value in ("no", 1, None)
        ),
        ("decay", torch.tensor(0.5).to_sparse(), ValueError),
        ("decay", torch.tensor([0.5]), ValueError),
        ("rate", torch.tensor(1), TypeError),
        ("timing", [], ValueError),
        ("backend", [], ValueError),
        ("backend", None, ValueError),
        ("dtype", torch.int64, ValueError),
        ("device", 1.5, TypeError),
        ("device", "nowhere", ValueError),
        ("dtype", torch.complex64, TypeError),
        ("dtype", "float32", TypeError),
    ],
)
def test_construction(kind, name, value, error):
    with pytest.raises(error, match=name):
        kind(**{"input_size": I, "hidden_size": H} | {name: value})


@pytest.mark.parametrize("name", ["rate", "eps"])
def test_a_number_that_the_dtype_of_the_tensors_cannot_hold(name):
    network, x = FastWeightsRNN(I, H, **{name: 1e39}), torch.randn(B, T, I)
    with pytest.raises(ValueError, match=rf"^{name}: expected a number that torch.float32 can hold, got 1e\+39"):
        network(x)
    assert network.double()(x.double())[0].isfinite().all()


@pytest.mark.parametrize("name", ["batch_first", "return_fast_weights"])
@pytest.mark.parametrize("value", ["no", 0, None])
def test_flags_of_a_sequence_network(name, value):
    with pytest.raises(TypeError, match=f"^{name}: expected True or False, got {value!r}"):
        FastWeightsRNN(I, H, **{name: value})
    if name == "return_fast_weights" and value is not None:
        with pytest.raises(TypeError, match=f"^{name}: expected True or False, got {value!r}"):
            NETWORKS["rnn"](torch.zeros(B, T, I), return_fast_weights=value)


@pytest.mark.parametrize("kind", [Fraction, np.float32, np.float64])
def test_numbers_of_any_kind_are_the_floats_that_they_stand_for(kind):
    given, x = {"decay": 0.5, "rate": 0.25, "eps": 2**-10}, torch.randn(B, T, I)
    network = FastWeightsRNN(I, H, **given)
    expected, _ = network(x)
    network.decay, network.rate, network.eps = map(kind, given.values())
    assert torch.equal(network(x)[0], expected)


@pytest.mark.parametrize("shape", [(I,), (1, B, T, I), ()])
def test_axes_of_a_sequence(shape):
    with pytest.raises(ValueError, match=r"^input: expected 3 axes, or 2 for one example, got \("):
        NETWORKS["rnn"](torch.zeros(shape))


@pytest.mark.parametrize("shape", [(B, T, I), ()])
def test_axes_of_a_step(shape):
    with pytest.raises(ValueError, match=r"^input: expected 2 axes, or 1 for one example, got \("):
        NETWORKS["cell"](torch.zeros(shape))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.tolist(),
        lambda x: None,
        lambda x: x[..., 1:],
        lambda x: x.double(),
        lambda x: x.long(),
        lambda x: x.to("meta"),
    ],
    ids=["list", "none", "width", "double", "integers", "meta"],
)
def test_input(network, x, change):
    with pytest.raises((TypeError, ValueError), match=r"^inputs?: expected .*got"):
        network(change(x))


def test_packed_input_of_another_width():
    with pytest.raises(ValueError, match=f"^input: expected width {I}, got {I + 1}"):
        NETWORKS["rnn"](pack_sequence([torch.zeros(T, I + 1)]))


def zeros(batched, *shape):
    return torch.zeros(B, *shape) if batched else torch.zeros(shape)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda batched: "zero", "hx"),
        (lambda batched: 0.0, "hx"),
        (lambda batched: {"h": zeros(batched, H)}, "hx"),
        (lambda batched: (), "hx"),
        (lambda batched: (zeros(batched, H),), "hx"),
        (lambda batched: (zeros(batched, H),) * 3, "hx"),
        (lambda batched: zeros(batched, H + 1), "h0"),
        (lambda batched: zeros(batched, 1, H), "h0"),
        (lambda batched: zeros(batched, H).double(), "h0"),
        (lambda batched: zeros(batched, H).to("meta"), "h0"),
        (lambda batched: (0.0, None), "h0|hx"),
        (lambda batched: (zeros(batched, H), 0.0), "a0|hx"),
        (lambda batched: (zeros(batched, H), zeros(batched, H)), "a0"),
        (lambda batched: (zeros(batched, H), zeros(batched, H, H + 1)), "a0"),
        (lambda batched: (zeros(batched, H), zeros(batched, H, H).double()), "a0"),
        (lambda batched: (zeros(batched, H), LowRank(zeros(batched, R, H), zeros(batched, R + 1, H))), "a0.right"),
        (lambda batched: (zeros(batched, H), LowRank(zeros(batched, R, H + 1), zeros(batched, R, H))), "a0.left"),
        (lambda batched: (zeros(batched, H), LowRank(zeros(batched, R, H), 0.0)), "a0.right|hx"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_state(network, x, batched, make, name):
    with pytest.raises((TypeError, ValueError), match=rf"^({name})\b.*: expected .*got"):
        network(x, make(batched))


def test_state_of_another_batch_size():
    for hx, name in [(torch.zeros(1, H), "h0"), ((torch.zeros(B, H), torch.zeros(1, H, H)), "a0")]:
        with pytest.raises(ValueError, match=rf"^{name}: expected shape \({B}, .*, got \(1, "):
            NETWORKS["rnn"](torch.zeros(B, T, I), hx)


@pytest.mark.parametrize(
    ("inputs", "lengths", "error"),
    [
        (torch.zeros(B, T, I), [1, 2], TypeError),
        (torch.zeros(B, T, I), torch.ones(B), TypeError),
        (torch.zeros(B, T, I), torch.ones(B + 1, dtype=torch.int64), ValueError),
        (torch.zeros(B, T, I), torch.tensor([-1, 1]), ValueError),
        (torch.zeros(B, T, I), torch.tensor([1, T + 1]), ValueError),
        (torch.zeros(T, I), torch.tensor([1]), ValueError),
        (pack_sequence([torch.zeros(T, I)]), torch.tensor([T]), ValueError),
    ],
    ids=["list", "floats", "too many", "negative", "too long", "unbatched", "packed"],
)
def test_lengths(inputs, lengths, error):
    with pytest.raises(error, match=r"^lengths: expected"):
        NETWORKS["rnn"](inputs, lengths=lengths)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((nn.RNN(I, H),), TypeError, "network"),
        ((None,), TypeError, "network"),
        ((NETWORKS["rnn"], "full"), ValueError, "a0"),
        ((NETWORKS["rnn"], None), ValueError, "a0"),
        ((NETWORKS["rnn"], "low_rank", 0), ValueError, "rank"),
        ((NETWORKS["rnn"], "low_rank", 2.0), TypeError, "rank"),
        ((NETWORKS["cell"], "low_rank", None), TypeError, "rank"),
    ],
)
def test_spec(arguments, error, name):
    with pytest.raises(error, match=f"^{name}: expected .*got"):
        fast_weights_spec(*arguments)


@pytest.mark.parametrize(
    ("left", "right", "error", "words"),
    [
        (None, torch.zeros(2, 1, 5), TypeError, "left: expected a tensor, got NoneType"),
        (np.zeros((2, 1, 5)), torch.zeros(2, 1, 5), TypeError, "left: expected a tensor, got ndarray"),
        (torch.zeros(2, 1, 5), torch.zeros(2, 1, 5).double(), ValueError, "left, right: expected one dtype and shape"),
        (torch.zeros(2, 1, 5), torch.zeros(2, 3, 5), ValueError, "left, right: expected one dtype and shape"),
        (torch.zeros(5), torch.zeros(5), ValueError, "left, right: expected one dtype and shape"),
        (torch.zeros(2, 1, 5) > 0, torch.zeros(2, 1, 5) > 0, TypeError, "left: expected a floating-point tensor"),
        (torch.zeros(2, 1, 5).to_sparse(), torch.zeros(2, 1, 5), ValueError, "left: expected a strided tensor"),
    ],
)
def test_factors_that_do_not_fit_make_no_matrix(left, right, error, words):
    with pytest.raises(error, match=f"^{words}"):
        LowRank(left, right).dense()


def test_parts_of_the_state_that_the_spec_leaves_open_are_dense():
    """Rows of A go on where no reset is."""
    network = NETWORKS["rnn"]
    model = ContextualRNN(network, FreeState(network))
    factor, reset = torch.randn(2, 1, H), torch.tensor([[False, True], [False, False]])
    hx = (torch.randn(2, H), LowRank(factor.to_sparse(), factor))
    for options in ({}, {"reset": reset}):
        with pytest.raises(ValueError, match=r"^hx: expected a strided tensor, got one of layout torch.sparse"):
            model(torch.randn(2, 2, I), hx, **options)


@pytest.mark.parametrize("kind", ["rnn", "cell"])
def test_complex_inputs_under_autocast(kind):
    network = NETWORKS[kind]
    shape = (2, I) if kind == "cell" else (2, 3, I)
    with torch.autocast("cpu"), pytest.raises(ValueError, match=r"^input: expected torch.float32 .*complex64"):
        network(torch.zeros(shape, dtype=torch.complex64))

"""The entry point refuses bad arguments with a TypeError or ValueError that names them."""

import pytest
import torch

from contextual_rnn.ops import LowRank, fast_weights

B, T, H, R = 2, 3, 4, 2


def arguments(**changes):
    given = {"inputs": torch.zeros(B, T, H), "weight_hh": torch.zeros(H, H), "h0": torch.zeros(B, H)}
    return given | changes


def low_rank(left=(B, R, H), right=(B, R, H), dtype=torch.float32, device="cpu"):
    return LowRank(torch.zeros(left), torch.zeros(right, dtype=dtype, device=device))


def test_the_arguments_below_are_good_but_for_one():
    fast_weights(**arguments(a0=low_rank(), norm_weight=torch.ones(H), norm_bias=torch.zeros(H)))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("inputs", [[[0.0]]], TypeError),
        ("inputs", None, TypeError),
        ("inputs", torch.zeros(B, T, H, dtype=torch.int64), TypeError),
        ("inputs", torch.zeros(B, T, H, dtype=torch.complex64), TypeError),
        ("weight_hh", None, TypeError),
        ("h0", None, TypeError),
        ("h0", 0.0, TypeError),
        ("a0", 0.0, TypeError),
        ("a0", (torch.zeros(B, R, H), torch.zeros(B, R, H)), TypeError),
        ("a0", LowRank(None, torch.zeros(B, R, H)), TypeError),
        ("a0", LowRank(torch.zeros(B, R, H), 1.0), TypeError),
        ("norm_weight", 1.0, TypeError),
        ("norm_bias", [0.0] * H, TypeError),
        ("inner_steps", 1.0, TypeError),
        ("inner_steps", True, TypeError),
        ("inner_steps", None, TypeError),
        ("inner_steps", 0, ValueError),
        ("inner_steps", 1001, ValueError),
        ("inner_steps", 10**400, ValueError),
        ("layer_norm", "no", TypeError),
        ("layer_norm", 1, TypeError),
        ("return_fast_weights", "no", TypeError),
        ("decay", 10**400, ValueError),
        ("rate", 10**400, ValueError),
        ("eps", 10**400, ValueError),
        ("timing", [], ValueError),
        ("backend", [], ValueError),
        ("decay", -0.1, ValueError),
        ("decay", 1.1, ValueError),
        ("decay", torch.nan, ValueError),
        ("decay", "0.9", TypeError),
        ("rate", -0.1, ValueError),
        ("rate", torch.inf, ValueError),
        ("rate", torch.nan, ValueError),
        ("rate", None, TypeError),
        ("eps", 0.0, ValueError),
        ("eps", -1e-5, ValueError),
        ("eps", torch.inf, ValueError),
        ("eps", torch.nan, ValueError),
        ("eps", "small", TypeError),
        ("timing", "ba", ValueError),
        ("timing", None, ValueError),
        ("backend", "fast", ValueError),
        ("backend", None, ValueError),
        ("lengths", [1, 2], TypeError),
        ("lengths", torch.ones(B), TypeError),
        ("lengths", torch.ones(B, dtype=torch.bool), TypeError),
        ("lengths", torch.ones(B + 1, dtype=torch.int64), ValueError),
        ("lengths", torch.ones(B, 1, dtype=torch.int64), ValueError),
        ("lengths", torch.tensor([-1, T]), ValueError),
        ("lengths", torch.tensor([1, T + 1]), ValueError),
    ],
    ids=lambda value: str(value) if isinstance(value, str | float | int | None) else type(value).__name__,
)
def test_bad_values_and_types(name, value, error):
    with pytest.raises(error, match=rf"^{name}\b.*: expected .*got"):
        fast_weights(**arguments(**{name: value}))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("inputs", (T, H)),
        ("inputs", (B, 0, H)),
        ("inputs", (B, T, 0)),
        ("inputs", (1, B, T, H)),
        ("weight_hh", (H, H + 1)),
        ("weight_hh", (B, H, H)),
        ("h0", (H,)),
        ("h0", (1, H)),
        ("h0", (B, H + 1)),
        ("a0", (H, H)),
        ("a0", (1, H, H)),
        ("a0", (B, H, H - 1)),
        ("norm_weight", (1,)),
        ("norm_weight", (B, H)),
        ("norm_bias", (H + 1,)),
    ],
)
def test_bad_shapes_are_told_with_both_shapes(name, shape):
    expected = r"expected shape \(.*\).*, got " + "".join(rf"\{c}" if c in "()" else c for c in str(shape))
    with pytest.raises(ValueError, match=f"^{name}: {expected}"):
        fast_weights(**arguments(**{name: torch.zeros(shape)}))


@pytest.mark.parametrize(
    ("name", "a0"),
    [
        ("a0.left", low_rank(left=(B, H))),
        ("a0.left", low_rank(left=(B, R, H + 1))),
        ("a0.left", low_rank(left=(1, R, H))),
        ("a0.right", low_rank(right=(B, R + 1, H))),
        ("a0.right", low_rank(right=(B, R, H + 1))),
        ("a0.right", low_rank(right=(R, H))),
        ("a0.right", low_rank(dtype=torch.float64)),
        ("a0.right", low_rank(device="meta")),
    ],
)
def test_bad_low_rank(name, a0):
    with pytest.raises(ValueError, match=f"^{name}: expected .*got"):
        fast_weights(**arguments(a0=a0))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("weight_hh", (H, H)), ("h0", (B, H)), ("a0", (B, H, H)), ("norm_weight", (H,)), ("norm_bias", (H,))],
)
@pytest.mark.parametrize("made", [{"dtype": torch.float64}, {"device": "meta"}], ids=str)
def test_another_dtype_or_device_than_the_inputs(name, shape, made):
    with pytest.raises(ValueError, match=f"^{name}: expected torch.float32 on cpu, as inputs, got torch.float"):
        fast_weights(**arguments(**{name: torch.zeros(shape, **made)}))


@pytest.mark.parametrize(
    ("name", "shape"), [("inputs", (B, T, H)), ("weight_hh", (H, H)), ("h0", (B, H)), ("a0", (B, H, H))]
)
def test_sparse_tensors(name, shape):
    with pytest.raises(ValueError, match=f"^{name}: expected a strided tensor, got one of layout torch.sparse"):
        fast_weights(**arguments(**{name: torch.ones(shape).to_sparse()}))


@pytest.mark.parametrize("name", ["norm_weight", "norm_bias"])
def test_gain_and_bias_without_layer_norm(name):
    """They would do nothing."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        fast_weights(**arguments(**{name: torch.ones(H)}), layer_norm=False)

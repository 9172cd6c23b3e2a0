"""The public door of the fast-weights recurrence: arguments are checked and a backend is chosen once, here."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from contextual_rnn._lengths import check_lengths
from contextual_rnn.ops.attention import attention
from contextual_rnn.ops.cpu import cpu, supports
from contextual_rnn.ops.options import TIMINGS, FastWeightsOptions, LowRank, Timing
from contextual_rnn.ops.reference import reference

BACKENDS = {"reference": reference, "attention": attention, "cpu": cpu}
ENVIRONMENT = "CONTEXTUAL_RNN_BACKEND"
# Steps, in units of H, up to which sums over what was written win over a stored A. Measured at H = 50: at T = 8 H
# attention takes 0.6 and cpu 0.13 of the time of reference. The scores that cpu keeps grow with T^2 and limit it.
LONGEST = {"attention": 8, "cpu": 16}


def fast_weights(
    inputs: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    a0: Tensor | LowRank | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    layer_norm: bool = True,
    inner_steps: int = 1,
    decay: float = 0.95,
    rate: float = 0.5,
    timing: Timing = "ba2016",
    eps: float = 1e-5,
    lengths: Tensor | None = None,
    return_fast_weights: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run the fast-weights recurrence of Ba et al. (2016), Eqs. 1 and 2, over projected inputs C x(t) + b.

        z    = W h(t-1) + inputs(t)          h_0 = relu(z)
        h_s+1 = relu(LN[z + A h_s])          s = 0 .. S-1,  h(t) = h_S
        A   <- decay A + rate v v^T          v = h(t) after the read (ba2016), h_0 before it (wenke2019)

    Shapes: inputs (B, T, H), weight_hh (H, H), h0 (B, H), a0 None (zero), (B, H, H) or `LowRank` of (B, r, H),
    norm_weight and norm_bias (H,), lengths (B,). Returns the outputs h(1..T), (B, T, H), zero beyond a sequence's
    length, and A after each sequence's last step, (B, H, H), or None where it is not asked for.

    `backend` is "reference" (A stored; differentiable any number of times), "attention" (A never stored;
    differentiable once), "cpu" (the same natively, on one thread) or "auto": what the environment variable
    CONTEXTUAL_RNN_BACKEND names; without it cpu where it was built and the tensors are for it, else attention, both
    while T is short enough for their sums to cost less than a stored A, and reference beyond and under torch.compile.

    Raises TypeError or ValueError for arguments of another type, shape, dtype, device or range.
    Deviations: Ba et al. give no bias in the bracket; the contextual-RNN authors multiply from the other side, h A,
    which for an unsymmetric a0 is its transpose.
    """
    options = FastWeightsOptions(inner_steps, decay, rate, layer_norm, timing, eps, return_fast_weights)
    check_options(options)
    _check_tensors(inputs, weight_hh, h0, a0, norm_weight, norm_bias, layer_norm)
    batch, steps, _ = inputs.shape
    if lengths is not None:
        check_lengths(lengths, batch, steps)
        lengths = lengths.to(inputs.device)
        beyond = torch.arange(steps, device=inputs.device) >= lengths[:, None]
        inputs = inputs.masked_fill(beyond[:, :, None], 0)  # padding may be anything, NaN included
    if backend == "auto":
        backend = _choose(inputs)
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    return BACKENDS[backend](inputs, weight_hh, h0, a0, norm_weight, norm_bias, lengths, options)


def _choose(inputs: Tensor) -> str:
    if named := os.environ.get(ENVIRONMENT):
        if named not in BACKENDS and named != "auto":
            raise ValueError(f"{ENVIRONMENT}: expected one of auto, {', '.join(BACKENDS)}, got {named!r}")
        if named != "auto":
            return named
    steps, width = inputs.shape[1:]
    if torch.compiler.is_compiling():
        return "reference"  # the others' hand-written derivatives cannot be traced
    if supports(inputs) and steps < LONGEST["cpu"] * width:
        return "cpu"
    return "attention" if steps < LONGEST["attention"] * width else "reference"


def check_options(options: FastWeightsOptions) -> None:
    """Refuse options outside their range."""
    if isinstance(options.inner_steps, bool) or not isinstance(options.inner_steps, int):
        raise TypeError(f"inner_steps: expected an int of at least 1, got {options.inner_steps!r}")
    if options.inner_steps < 1:
        raise ValueError(f"inner_steps: expected an int of at least 1, got {options.inner_steps}")
    for name in ("decay", "rate", "eps"):
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name}: expected a number, got {value!r}")
    if options.timing not in TIMINGS:
        raise ValueError(f"timing: expected one of {', '.join(TIMINGS)}, got {options.timing!r}")
    if not 0 <= options.decay <= 1:
        raise ValueError(f"decay: expected a number from 0 to 1, got {options.decay!r}")
    if not 0 <= options.rate < math.inf:
        raise ValueError(f"rate: expected a finite number of at least 0, got {options.rate!r}")
    if not 0 < options.eps < math.inf:
        raise ValueError(f"eps: expected a positive, finite number, got {options.eps!r}")


def _check_tensors(
    inputs: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    a0: Tensor | LowRank | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    layer_norm: bool,
) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        came = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs: expected a floating-point tensor, got {came}")
    if inputs.ndim != 3 or 0 in inputs.shape:
        raise ValueError(f"inputs: expected shape (batch, time, hidden), none of them 0, got {tuple(inputs.shape)}")
    batch, _, width = inputs.shape
    if not layer_norm:
        for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
            if tensor is not None:
                raise ValueError(f"{name}: expected None without layer norm, got {type(tensor).__name__}")
    expected: dict[str, tuple[object, tuple[int, ...]]] = {
        "weight_hh": (weight_hh, (width, width)),
        "h0": (h0, (batch, width)),
        "norm_weight": (norm_weight, (width,)),
        "norm_bias": (norm_bias, (width,)),
    }
    if isinstance(a0, LowRank):
        rank = a0.left.shape[1] if isinstance(a0.left, Tensor) and a0.left.ndim == 3 else 1
        expected |= {"a0.left": (a0.left, (batch, rank, width)), "a0.right": (a0.right, (batch, rank, width))}
    else:
        expected["a0"] = (a0, (batch, width, width))
    for name, (tensor, shape) in expected.items():
        if tensor is None and name in ("a0", "norm_weight", "norm_bias"):
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor of shape {shape}, got {type(tensor).__name__}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != inputs.dtype or tensor.device != inputs.device:
            raise ValueError(
                f"{name}: expected {inputs.dtype} on {inputs.device}, as inputs, got {tensor.dtype} on {tensor.device}"
            )

"""The fast-weights recurrence: its arguments are checked once, here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from contextual_rnn._autocast import in_autocast
from contextual_rnn._lengths import check_lengths, without_padding
from contextual_rnn._numbers import check_flag, check_held, check_number, check_size, shortened
from contextual_rnn._precision import is_narrow
from contextual_rnn._tensors import check_dense, check_floats
from contextual_rnn._torch_internals import is_transformed
from contextual_rnn.ops._fast_weights.choice import BACKENDS, FastWeightsBackend, choose
from contextual_rnn.ops._fast_weights.chunks import in_chunks
from contextual_rnn.ops._fast_weights.operation import KERNELS
from contextual_rnn.ops._fast_weights.options import MOST_INNER_STEPS, TIMINGS, FastWeightsOptions, LowRank, Timing

# These work on a sequence of more than 2 H steps in chunks of H; cpu has chunks of its own. Attention at H = 50 on a
# core, 16 or 64 samples: at 2 H one more chunk costs what it saves; at 8 H chunks take 0.6 of the time of none, and a
# third to a sixth of that of a stored A. Triton on an H200, milliseconds in chunks of 1, 2, 4, 8 H | none | stored A:
#   H = 50, B = 64, T = 16 H  19, 9, 7, 11 | 22 | 551      H = 50, B = 2048, T = 8 H  14, 28, 66, 205 | 204 | 275
#   H = 128, B = 256, T = 8 H  25, 31, 44, 84 | 84 | 878
CHUNKED = ("attention", "triton")


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
    decay: float | Tensor = 0.95,
    rate: float | Tensor = 0.5,
    timing: Timing = "ba2016",
    eps: float = 1e-5,
    lengths: Tensor | None = None,
    return_fast_weights: bool = False,
    weight_ih: Tensor | None = None,
    bias: Tensor | None = None,
    backend: FastWeightsBackend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run the fast-weights recurrence of Ba et al. (2016), Eqs. 1 and 2, over projected inputs C x(t) + b.

        z    = W h(t-1) + inputs(t)          h_0 = relu(z)
        h_s+1 = relu(LN[z + A h_s])          s = 0 .. S-1,  h(t) = h_S
        A   <- decay A + rate v v^T          v = h(t) after the read (ba2016), h_0 before it (wenke2019)

    Shapes: inputs (B, T, H), weight_hh (H, H), h0 (B, H), a0 None (zero), (B, H, H) or `LowRank` of (B, r, H),
    norm_weight and norm_bias (H,), lengths (B,). Returns the outputs h(1..T), (B, T, H), zero beyond a sequence's
    length, and A after each sequence's last step, (B, H, H), or None where it is not asked for.

    With weight_ih C (H, I), and bias b (H,) or none, inputs are features x (B, T, I) that are projected here: the CPU
    kernel does so block by block, and neither projected inputs nor their gradient pass through memory.

    decay and rate are numbers, or tensors of no axes which may require gradients (their range is then checked on
    the CPU alone). The batch may be empty. Under autocast everything runs in the dtype of weight_hh. Tensors of
    float16 and bfloat16 are summed in float32, and what is returned is rounded to them.

    `backend` is "reference" (A stored; differentiable any number of times), "attention" (sums over what was written,
    and A stored between the chunks of a long sequence; differentiable once), "cpu" (the same natively), "triton" (the
    same on a GPU) or "auto": what the environment variable CONTEXTUAL_RNN_BACKEND names; without it cpu or triton where
    there is the one for these tensors, else attention; reference for torch.export and derivatives that are carried
    forward, and under torch.compile and torch.func where no kernel serves.

    Raises TypeError or ValueError for arguments of another type, shape, dtype, device or range.
    Deviations: Ba et al. give no bias in the bracket; the contextual-RNN authors multiply from the other side, h A,
    which for an unsymmetric a0 is its transpose. The native kernel leaves out products with an h0 of zero, which are
    zero there even where weight_hh is not finite, and takes subnormal numbers as zeros, as they are slow.
    """
    options = checked_options(inner_steps, decay, rate, layer_norm, timing, eps, return_fast_weights)
    check_floats("weight_hh", weight_hh)
    projection = weight_ih, bias
    if in_autocast(weight_hh.device):
        given = (inputs, h0, a0, norm_weight, norm_bias, weight_ih, bias)
        inputs, h0, a0, norm_weight, norm_bias, *projection = (_cast(tensor, weight_hh.dtype) for tensor in given)
        with torch.autocast(weight_hh.device.type, enabled=False):
            return _run(inputs, weight_hh, h0, a0, norm_weight, norm_bias, lengths, options, backend, *projection)
    return _run(inputs, weight_hh, h0, a0, norm_weight, norm_bias, lengths, options, backend, *projection)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, LowRank):
        return LowRank(*(_cast(factor, dtype) for factor in value))
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _run(
    inputs: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    a0: Tensor | LowRank | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    lengths: Tensor | None,
    options: FastWeightsOptions,
    backend: str,
    weight_ih: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    check_tensors(inputs, weight_hh, h0, a0, norm_weight, norm_bias, options, weight_ih, bias)
    (batch, steps, _), width = inputs.shape, weight_hh.shape[-1]
    if lengths is not None:
        check_lengths(lengths, batch, steps)
        lengths = lengths.to(inputs.device)
        inputs = without_padding(inputs, lengths)
    name, projection = choose(backend, weight_hh), ()
    if weight_ih is not None and name in KERNELS:
        projection = weight_ih, bias
    elif weight_ih is not None:
        inputs = functional.linear(inputs, weight_ih, bias)
    run: Callable[..., Any] = BACKENDS[name]
    if name in CHUNKED and steps > 2 * width:
        run = functools.partial(in_chunks, run, width)
    if name in KERNELS or not is_narrow(inputs.dtype):
        return run(inputs, weight_hh, h0, a0, norm_weight, norm_bias, lengths, options, *projection)
    # A is a sum over time: in bfloat16 a decay of 0.999 would round to 1.
    given = inputs, weight_hh, h0, a0, norm_weight, norm_bias
    output, final = run(*(_cast(tensor, torch.float32) for tensor in given), lengths, options)
    return _cast(output, inputs.dtype), _cast(final, inputs.dtype)


def checked_options(*given: Any) -> FastWeightsOptions:
    """Options, in the order of their fields, refused outside their range; plain numbers are checked once."""
    if tuple(map(type, given)) == _PLAIN_OPTIONS and not torch.compiler.is_compiling():
        return _cached_options(*given)
    return _checked_options(*given)


_PLAIN_OPTIONS = (int, float, float, bool, str, float, bool)


def _checked_options(
    inner_steps: int,
    decay: float | Tensor,
    rate: float | Tensor,
    layer_norm: bool,
    timing: Timing,
    eps: float,
    return_fast_weights: bool,
) -> FastWeightsOptions:
    inner_steps = check_size("inner_steps", inner_steps)
    if inner_steps > MOST_INNER_STEPS:
        raise ValueError(f"inner_steps: expected at most {MOST_INNER_STEPS}, got {inner_steps}")
    check_flag("layer_norm", layer_norm)
    check_flag("return_fast_weights", return_fast_weights)
    if not isinstance(timing, str) or timing not in TIMINGS:
        raise ValueError(f"timing: expected one of {', '.join(TIMINGS)}, got {shortened(timing)}")
    return FastWeightsOptions(
        inner_steps,
        _checked_number("decay", decay, "a number from 0 to 1", lambda value: 0 <= value <= 1),
        _checked_number("rate", rate, "a finite number of at least 0", lambda value: value >= 0),
        layer_norm,
        timing,
        check_number("eps", eps, "a positive, finite number", lambda value: value > 0),
        return_fast_weights,
    )


_cached_options = functools.lru_cache(maxsize=64)(_checked_options)


def _checked_number(name: str, value: float | Tensor, expected: str, fits: Callable[[float], bool]) -> float | Tensor:
    """`check_number` for what may also be a tensor of no axes."""
    if not isinstance(value, Tensor):
        return check_number(name, value, expected, fits)
    check_floats(name, value)
    if value.ndim:
        raise ValueError(f"{name}: expected {expected}, got a tensor of shape {tuple(value.shape)}")
    traced = torch.compiler.is_compiling() or is_transformed(value)
    if not traced and value.device.type == "cpu":  # others cannot be read, or not without waiting for them
        check_number(name, float(value.detach()), expected, fits)
    return value


def check_tensors(
    inputs: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    a0: Tensor | LowRank | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    options: FastWeightsOptions,
    weight_ih: Tensor | None = None,
    bias: Tensor | None = None,
    sequences: int | None = None,
) -> None:
    """Refuse tensors that do not fit inputs (B, T, H), or (B, T, I) where there is weight_ih, or each other.

    There are B states, or as many as there are `sequences`.
    """
    check_floats("inputs", inputs)
    if inputs.ndim != 3 or 0 in inputs.shape[1:]:
        raise ValueError(
            f"inputs: expected shape (batch, time, hidden), time and hidden not 0, got {tuple(inputs.shape)}"
        )
    batch, _, features = inputs.shape
    batch, width = batch if sequences is None else sequences, features
    if weight_ih is not None:
        width = weight_hh.shape[-1] if weight_hh.ndim else 1
        if not width:
            raise ValueError(f"weight_hh: expected at least one unit, got shape {tuple(weight_hh.shape)}")
    elif bias is not None:
        raise ValueError(f"bias: expected None without weight_ih, got {type(bias).__name__}")
    check_norm(norm_weight, norm_bias, options)
    expected: list[tuple[str, object, tuple[int, ...]]] = [("weight_hh", weight_hh, (width, width))]
    if weight_ih is not None:
        expected.append(("weight_ih", weight_ih, (width, features)))
    expected.append(("h0", h0, (batch, width)))
    for name, vector in (("norm_weight", norm_weight), ("norm_bias", norm_bias), ("bias", bias)):
        if vector is not None:
            expected.append((name, vector, (width,)))
    for name, number in (("decay", options.decay), ("rate", options.rate), ("eps", options.eps)):
        if isinstance(number, Tensor):
            expected.append((name, number, ()))
        elif not torch.compiler.is_compiling():  # a number may be symbolic there
            check_held(name, number, inputs.dtype)
    for name, tensor, shape in (*expected, *shapes_of(a0, batch, width)):
        check_tensor(name, tensor, shape, inputs)


def check_norm(norm_weight: object, norm_bias: object, options: FastWeightsOptions) -> None:
    """Refuse layer norm's parameters where there is none."""
    if not options.layer_norm:
        for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
            if tensor is not None:
                raise ValueError(f"{name}: expected None without layer norm, got {type(tensor).__name__}")


def shapes_of(a0: Tensor | LowRank | None, rows: int, width: int) -> list[tuple[str, object, tuple[int, ...]]]:
    """Name, tensor and expected shape of each part of an A(0) of `rows` states."""
    if isinstance(a0, LowRank):
        left = a0.left
        rank = left.shape[1] if isinstance(left, Tensor) and not left.is_nested and left.ndim == 3 else 1
        return [("a0.left", a0.left, (rows, rank, width)), ("a0.right", a0.right, (rows, rank, width))]
    return [] if a0 is None else [("a0", a0, (rows, width, width))]


def check_a0(a0: Tensor | LowRank | None, rows: int, width: int, like: Tensor) -> None:
    """Refuse an A(0) that is not of `rows` states, of the dtype and on the device of `like`."""
    for name, tensor, shape in shapes_of(a0, rows, width):
        check_tensor(name, tensor, shape, like)


def check_tensor(name: str, tensor: object, shape: tuple[int, ...], like: Tensor) -> None:
    """Refuse anything but a strided tensor of `shape`, of the dtype and on the device of `like`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor of shape {shape}, got {type(tensor).__name__}")
    check_dense(name, tensor)
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        given = f"{tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name}: expected {like.dtype} on {like.device}, as inputs, got {given}")

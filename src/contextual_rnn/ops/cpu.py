"""The native CPU kernel of the fast-weights recurrence: the attention form in C++, forward and backward."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._shapes import Float, Int
from contextual_rnn.ops.attention import final_fast_weights
from contextual_rnn.ops.once import differentiable_once
from contextual_rnn.ops.options import FastWeightsOptions, LowRank

_SIZES = ("batch", "steps", "width", "inner_steps", "rank", "write_before_read", "layer_norm", "a0_stride", "keep")
_NUMBERS = ("decay", "rate", "eps")
_POINTERS = (
    *("inputs", "weight", "h0", "a0", "left", "right", "gain", "shift", "lengths"),
    *("output", "written", "saved", "scratch", "grad_output", "grad_written"),
    *("grad_inputs", "grad_h0", "grad_a0", "grad_left", "grad_right", "grad_gain", "grad_shift"),
)
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class _Problem(ctypes.Structure):
    """`FastWeightsProblem` of csrc/fast_weights.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    # An editable install keeps the library in a folder of its own, which the package's path names beside the source.
    folders = sys.modules[__name__.rpartition(".")[0]].__path__
    found = [file for folder in folders for file in sorted(Path(folder).glob("*fast_weights_cpu.*"))]
    return ctypes.CDLL(str(found[0])) if found else None


@functools.cache
def instruction_set() -> str | None:
    """The instruction set the kernel uses here, None where it was not built."""
    library = _library()
    if library is None:
        return None
    library.fast_weights_instruction_set.restype = ctypes.c_char_p
    return library.fast_weights_instruction_set().decode()


def availability() -> str:
    """Whether the kernel can run, and why not."""
    found = instruction_set()
    return f"available ({found})" if found else "not available: not built at install, for want of a C++ compiler"


def supports(inputs: Tensor) -> bool:
    """Whether the kernel can run on tensors like `inputs`."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype in _DTYPES
        and type(inputs) in (Tensor, torch.nn.Parameter)
        and instruction_set() is not None
        and torch._C._functorch.maybe_current_level() is None  # pyright: ignore[reportAttributeAccessIssue]
    )


def cpu(
    inputs: Float[Tensor, "B T H"],
    weight_hh: Float[Tensor, "H H"],
    h0: Float[Tensor, "B H"],
    a0: Float[Tensor, "B H H"] | LowRank | None,
    norm_weight: Float[Tensor, " H"] | None,
    norm_bias: Float[Tensor, " H"] | None,
    lengths: Int[Tensor, " B"] | None,
    options: FastWeightsOptions,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H H"] | None]:
    """The attention form on one thread; O(B T (T + H) H) time, O(B T (T + H)) memory to go back.

    Differentiable once. Raises ValueError where the kernel was not built or the tensors are not for it.
    """
    if not supports(inputs):
        raise ValueError(
            f"backend: expected plain float32 or float64 tensors on the CPU for the cpu kernel ({availability()}), "
            f"got {inputs.dtype} on {inputs.device}"
        )
    left, right = a0 if isinstance(a0, LowRank) else (None, None)
    dense = a0 if isinstance(a0, Tensor) else None
    output, written = _Recurrence.apply(
        inputs, weight_hh, h0, dense, left, right, norm_weight, norm_bias, lengths, options
    )
    if not options.return_fast_weights:
        return output, None
    return output, final_fast_weights(output if written is None else written, a0, lengths, options)


class _Recurrence(torch.autograd.Function):
    """The outputs h(t) and, where the final A needs them and they are others, the written m(t), each (B, T, H)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        dense: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        lengths: Tensor | None,
        options: FastWeightsOptions,
    ) -> tuple[Tensor, Tensor | None]:
        given = (inputs, weight_hh, h0, dense, left, right, norm_weight, norm_bias)
        keep = any(ctx.needs_input_grad)
        early = options.timing == "wenke2019"
        output = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        written = torch.empty_like(output) if early and options.return_fast_weights else None
        saved = _run("forward", options, given, lengths, keep=keep, output=output, written=written)
        ctx.options = options
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, lengths, output, saved)
        return output, written

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *given, lengths, output, saved = ctx.saved_tensors
        with torch.no_grad():
            grads = _backward(tuple(given), lengths, output, saved, grad_output, grad_written, ctx.options)
        return (*differentiable_once(grads, tuple(given)), None, None)


def _backward(
    given: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    output: Tensor,
    saved: Tensor,
    grad_output: Tensor | None,
    grad_written: Tensor | None,
    options: FastWeightsOptions,
) -> tuple[Tensor | None, ...]:
    _, _, h0, dense, left, right, norm_weight, norm_bias = given
    assert h0 is not None

    def like(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)

    made = {
        "grad_inputs": torch.empty_like(output),
        "grad_h0": like(h0),
        "grad_a0": like(dense),
        "grad_left": like(left),
        "grad_right": like(right),
        "grad_gain": like(norm_weight),
        "grad_shift": like(norm_bias),
    }
    came = {
        "grad_output": None if grad_output is None else grad_output.contiguous(),
        "grad_written": None if grad_written is None else grad_written.contiguous(),
    }
    _run("backward", options, given, lengths, keep=True, saved=saved, **came, **made)
    width = output.shape[-1]
    previous = torch.cat([h0[:, None], output[:, :-1]], dim=1)
    grad_weight = made["grad_inputs"].reshape(-1, width).t() @ previous.reshape(-1, width)
    grad_inputs, *others = made.values()
    return grad_inputs, grad_weight, *others


def _run(
    direction: str,
    options: FastWeightsOptions,
    given: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    *,
    keep: bool,
    saved: Tensor | None = None,
    **others: Tensor | None,
) -> Tensor:
    """Fill in the problem and call the kernel; returns what it keeps for the backward pass."""
    inputs, weight, h0, dense, left, right, gain, shift = given
    assert inputs is not None
    library, suffix = _library(), f"{_DTYPES[inputs.dtype]}_{instruction_set()}"
    batch, steps, width = inputs.shape
    stride = 0 if dense is None or dense.stride(0) == 0 else width * width
    if dense is not None:
        dense = dense[:1].contiguous() if stride == 0 else dense.contiguous()
    tensors = {
        name: None if tensor is None else tensor.contiguous()
        for name, tensor in zip(_POINTERS, (inputs, weight, h0, dense, left, right, gain, shift), strict=False)
    }
    tensors["lengths"] = None if lengths is None else lengths.long().contiguous()
    tensors |= others
    problem = _Problem(
        batch, steps, width, options.inner_steps, 0 if left is None else left.shape[1],
        options.timing == "wenke2019", options.layer_norm, stride, keep, options.decay, options.rate, options.eps,
    )  # fmt: skip
    _point(problem, tensors)
    sizes = ctypes.c_int64(), ctypes.c_int64()
    getattr(library, f"fast_weights_sizes_{suffix}")(ctypes.byref(problem), *map(ctypes.byref, sizes))
    saved = torch.empty(sizes[0].value, dtype=torch.uint8) if saved is None else saved
    scratch = torch.empty(sizes[1].value, dtype=torch.uint8)
    _point(problem, {"saved": saved, "scratch": scratch})
    getattr(library, f"fast_weights_{direction}_{suffix}")(ctypes.byref(problem))
    return saved


def _point(problem: _Problem, tensors: dict[str, Tensor | None]) -> None:
    for name, tensor in tensors.items():
        setattr(problem, name, None if tensor is None else tensor.data_ptr())

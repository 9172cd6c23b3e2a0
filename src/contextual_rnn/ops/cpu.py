"""The native CPU kernel of the fast-weights recurrence: the attention form in C++, forward and backward."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import torch
from torch import Tensor

from contextual_rnn.ops.kernel import Given, Settings

_SIZES = ("batch", "steps", "width", "inner_steps", "rank", "write_before_read", "layer_norm", "a0_stride", "keep")
_POINTERS = (
    *("inputs", "weight", "h0", "a0", "left", "right", "gain", "shift", "discounts", "retained", "lengths"),
    *("output", "written", "saved", "scratch", "grad_output", "grad_written"),
    *("grad_inputs", "grad_h0", "grad_a0", "grad_left", "grad_right", "grad_gain", "grad_shift"),
    *("grad_discounts", "grad_retained"),
)
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class _Problem(ctypes.Structure):
    """`FastWeightsProblem` of csrc/fast_weights.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        ("eps", ctypes.c_double),
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
    if found := instruction_set():
        return f"available ({found}, float32 and float64)"
    return "not available: not built at install, for want of a C++ compiler"


# Known from the start, since torch.compile cannot trace the loading of a library.
_BUILT = instruction_set() is not None


def supports(inputs: Tensor) -> bool:
    """Whether the kernel can run on tensors like `inputs`."""
    return _BUILT and inputs.device.type == "cpu" and inputs.dtype in _DTYPES


name = "cpu"


def saved_size(given: Given, settings: Settings) -> int:
    """Elements kept for the backward pass; `Kernel::saved_size` of csrc/fast_weights.cpp for all blocks."""
    inputs, rank = given.inputs, 0 if given.left is None else given.left.shape[1]
    batch, steps, width = inputs.shape
    reads, lanes = steps * settings.inner_steps, 64 // inputs.dtype.itemsize
    own_matrix = given.a0 is not None and not settings.shared_a0
    block = (steps + 1) * width + reads * width * (2 if settings.layer_norm else 1) + reads + reads * steps
    block += 2 * rank * width + reads * rank + (width * width if own_matrix else 0)
    return (batch + lanes - 1) // lanes * block * lanes


def forward(given: Given, settings: Settings, keep: bool, keep_written: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernel.forward` of kernel.py; on one thread, O(B T (T + H) H) time, O(B T (T + H)) memory to go back."""
    inputs = given.inputs
    output = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    written = torch.empty_like(output) if keep_written else None
    saved = _run("forward", given, settings, keep=keep, output=output, written=written)
    return output, output.new_empty(0) if written is None else written, saved if keep else output.new_empty(0)


def backward(
    given: Given,
    settings: Settings,
    output: Tensor,
    saved: Tensor,
    grad_output: Tensor | None,
    grad_written: Tensor | None,
    wanted: list[bool],
) -> list[Tensor]:
    """As `Kernel.backward` of kernel.py."""

    def like(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)

    made = {
        "grad_inputs": torch.empty_like(output),
        "grad_h0": like(given.h0),
        "grad_a0": like(given.a0),
        "grad_left": like(given.left),
        "grad_right": like(given.right),
        "grad_gain": like(given.norm_weight),
        "grad_shift": like(given.norm_bias),
        "grad_discounts": torch.zeros_like(given.discounts) if wanted[-2] else None,
        "grad_retained": torch.zeros_like(given.retained) if wanted[-1] else None,
    }
    came = {
        "grad_output": None if grad_output is None else grad_output.contiguous(),
        "grad_written": None if grad_written is None else grad_written.contiguous(),
    }
    _run("backward", given, settings, keep=True, saved=saved, **came, **made)
    width = output.shape[-1]
    previous = torch.cat([given.h0[:, None], output[:, :-1]], dim=1)
    grad_weight = made["grad_inputs"].reshape(-1, width).t() @ previous.reshape(-1, width)
    grad_inputs, *others = made.values()
    return [grad for grad, want in zip((grad_inputs, grad_weight, *others), wanted, strict=True) if want]


def _run(
    direction: str,
    given: Given,
    settings: Settings,
    *,
    keep: bool,
    saved: Tensor | None = None,
    **others: Tensor | None,
) -> Tensor:
    """Fill in the problem and call the kernel; returns what it keeps for the backward pass."""
    inputs, dense, left = given.inputs, given.a0, given.left
    library, suffix = _library(), f"{_DTYPES[inputs.dtype]}_{instruction_set()}"
    batch, steps, width = inputs.shape
    stride = 0 if dense is None or settings.shared_a0 else width * width
    if dense is not None:
        dense = dense[:1].contiguous() if settings.shared_a0 else dense.contiguous()
    tensors = {
        name: None if tensor is None else tensor.contiguous()
        for name, tensor in zip(_POINTERS, given._replace(a0=dense), strict=False)
    } | others
    problem = _Problem(
        batch, steps, width, settings.inner_steps, 0 if left is None else left.shape[1],
        settings.write_before_read, settings.layer_norm, stride, keep, settings.eps,
    )  # fmt: skip
    _point(problem, tensors)
    sizes = ctypes.c_int64(), ctypes.c_int64()
    getattr(library, f"fast_weights_sizes_{suffix}")(ctypes.byref(problem), *map(ctypes.byref, sizes))
    if saved is None:
        saved = inputs.new_empty(sizes[0].value // inputs.element_size())
    scratch = torch.empty(sizes[1].value, dtype=torch.uint8)
    _point(problem, {"saved": saved, "scratch": scratch})
    getattr(library, f"fast_weights_{direction}_{suffix}")(ctypes.byref(problem))
    return saved


def _point(problem: _Problem, tensors: dict[str, Tensor | None]) -> None:
    for name, tensor in tensors.items():
        setattr(problem, name, None if tensor is None else tensor.data_ptr())

"""The native CPU kernel of the fast-weights recurrence: the attention form in C++, forward and backward."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.ops._fast_weights.kernel import Given, Settings
from contextual_rnn.ops._fast_weights.layouts import (
    CLASSIFICATION,
    INDICES,
    PACK,
    PACK_CLASSIFICATION,
    PROBLEM,
    STREAM,
)
from contextual_rnn.ops.native import library
from contextual_rnn.ops.native.memory import address, addresses_of, in_memory

_LAYOUTS = PROBLEM, CLASSIFICATION, STREAM


def instruction_set() -> str | None:
    """The instruction set that the kernel uses here, None where it was not built."""
    return library.instruction_set(*_LAYOUTS)


def availability() -> str:
    """Whether the kernel can run, and why not."""
    return library.availability(*_LAYOUTS)


# Known from the start, since torch.compile cannot trace the loading of a library.
_BUILT = instruction_set() is not None


def supports(inputs: Tensor) -> bool:
    """Whether the kernel can run on tensors like `inputs`."""
    return _BUILT and inputs.is_cpu and inputs.dtype in library.DTYPES


def _variant(batch: int, dtype: torch.dtype) -> str | None:
    """The instruction set for so many samples, as many of which are worked on at once as a register holds.

    Where the half of one holds them all, so does a register of AVX2, and nothing is moved for lanes that are empty: one
    sequence of 1,100 steps took a third of the time at H = 512, and 8 of 500 steps 0.8 at H = 64 (AMD EPYC, Zen 4).
    """
    best = instruction_set()
    return "avx2" if best == "avx512" and batch * dtype.itemsize <= 32 else best


name = "cpu"


# Elements of a projection that stays in a core's cache beside what it works on, and whose gradient every group of
# samples has a sum of its own for. One large product is better beyond.
_MOST_PROJECTED = 1 << 16


def projects(weight_ih: Tensor) -> bool:
    """Whether features are better projected here than by a product before."""
    return weight_ih.numel() <= _MOST_PROJECTED


# A sequence of more steps than `_LONGEST` H is worked on in chunks: attending to all that was written costs more there
# than carrying A. Measured, forward and backward in one chunk | in chunks of 32, nanoseconds a token, one AVX-512 core:
#   H = 32, T = 1.5 H 354 | 419, 2 H 403 | 469, 3 H 516 | 494     H = 128, T = 1.5 H 6480 | 7489, 2 H 6820 | 6156
#   H = 64, T = 1.5 H 1322 | 1517, 2 H 1608 | 1585, 3 H 2431 | 1721
# Chunks of 16 are as good and take twice the memory, of 64 are slower by a tenth.
_LONGEST = 2
_CHUNK = 32
_EVERY = 8  # `every` of csrc/memory.h


def _chunk(steps: int, width: int) -> int:
    """Steps of a chunk; all of them where the sequence is short."""
    return steps if steps <= _LONGEST * width else _CHUNK


# Multiply-adds below which waking a second thread costs more than it saves.
_WORTH_THREADS = 2_000_000


def threads_for(multiply_adds: int) -> int:
    """On how many threads a call of so many multiply-adds runs."""
    return torch.get_num_threads() if multiply_adds > _WORTH_THREADS else 1


def _shape(given: Given) -> tuple[int, int, int]:
    """(N, T, H) of the sequences that the kernel works on, wherever they stand, and not of features."""
    batch, steps, width = given.inputs.shape
    if given.places is not None:
        batch, steps = len(given.places), len(given.discounts)
    return batch, steps, width if given.weight_ih is None else given.weight_ih.shape[0]


def saved_size(given: Given, settings: Settings) -> int:
    """Elements kept for the backward pass; `Kernel::saved_size` of csrc/memory.h."""
    (batch, steps, _), lanes = _shape(given), library.lanes(given.inputs.dtype)
    if given.places is None or given.lengths is None:
        return (batch + lanes - 1) // lanes * _saved_of_block(steps, given, settings) * lanes
    # What more is asked for than is used can be far more, and then new memory at every call.
    lengths = given.lengths.tolist()
    longest = (max(1, *lengths[first : first + lanes]) for first in range(0, batch, lanes))
    return sum(_saved_of_block(steps, given, settings) for steps in longest) * lanes


def _saved_of_block(steps: int, given: Given, settings: Settings) -> int:
    """Vectors that a block of so many steps keeps; `Kernel::saved_of_block` of csrc/memory.h."""
    rank = 0 if given.left is None else given.left.shape[1]
    _, longest, width = _shape(given)
    if (chunk := _chunk(longest, width)) < longest:
        return ((steps + chunk - 1) // chunk + _EVERY - 1) // _EVERY * width * width
    reads = steps * settings.inner_steps
    vectors = reads * width * (2 if settings.layer_norm else 1) + reads + reads * steps
    vectors += (3 if settings.write_before_read and settings.layer_norm else steps + 1) * width
    return vectors + 2 * rank * width + reads * rank


def forward(given: Given, settings: Settings, keep: bool, keep_written: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernel.forward` of native/kernel.py.

    O(B T (T + H) H) time and O(B T (T + H)) memory to go back for short sequences, O(B T H^2) and O(B T H) for long.
    """
    output = given.inputs.new_empty(*given.inputs.shape[:2], _shape(given)[2])
    saved = output.new_empty(saved_size(given, settings) if keep else 0)
    written = torch.empty_like(output) if keep_written else output.new_empty(0)
    _run(False, given, settings, keep, address(output), address(written) if keep_written else 0, address(saved))
    return output, written, saved


def backward(
    given: Given,
    settings: Settings,
    output: Tensor,
    saved: Tensor,
    grad_output: Tensor | None,
    grad_written: Tensor | None,
    wanted: list[bool],
) -> list[Tensor]:
    """As `Kernel.backward` of native/kernel.py."""
    output, grad_output, grad_written = output.contiguous(), in_memory(grad_output), in_memory(grad_written)
    computed = list(wanted)
    if given.weight_ih is None:
        computed[0] = True  # the gradient of inputs in any case: that of the weights comes from it
    grads = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if compute and tensor is not None else None
        for tensor, compute in zip(given, computed, strict=True)
    ]
    of_grads = [address(grad) for grad, name in zip(grads, Given._fields, strict=True) if name not in INDICES]
    others = address(output), address(saved), address(grad_output), address(grad_written)
    _run(True, given, settings, True, *others, *of_grads)
    return [grad for grad, want in zip(grads, wanted, strict=True) if want and grad is not None]


def _run(backwards: bool, given: Given, settings: Settings, keep: bool, *others: int) -> None:
    """Call the kernel; `others` are the addresses of results and what is saved, backwards of gradients too."""
    if given.a0 is not None and settings.shared_a0:
        given = given._replace(a0=given.a0[:1])
    tensors = [None if tensor is None else tensor.contiguous() for tensor in given]  # alive until the kernel is done
    addresses, projects = addresses_of(tensors, Given._fields), given.weight_ih is not None
    rank, dense = 0 if given.left is None else given.left.shape[1], given.a0 is not None
    shape, (batch, steps, features) = _shape(given), given.inputs.shape
    sizes = _sizes(shape, settings, keep, rank, dense, features if projects else 0, batch * steps)
    problem = PACK[backwards, projects](*sizes, *addresses, *others)
    dtype = given.inputs.dtype
    scratch_size, run = _functions(dtype, _variant(shape[0], dtype))[backwards]
    scratch = torch.empty(scratch_size(problem, backwards), dtype=torch.uint8, device="cpu")
    run(problem, scratch.data_ptr())


def _sizes(
    shape: tuple[int, ...], settings: Settings, keep: bool, rank: int, dense: bool, input_size: int = 0, rows: int = 0
) -> tuple[float, ...]:
    """The numbers of a call, `SIZES` of layouts.py."""
    batch, steps, width = shape
    chunk = _chunk(steps, width)
    work = batch * steps * (width + min(chunk, width) + input_size) * width
    threads = threads_for(work)
    return (
        batch, steps, width, settings.inner_steps, rank, chunk, threads, settings.write_before_read,
        settings.layer_norm, width * width if dense and not settings.shared_a0 else 0, keep, settings.eps, input_size,
        rows,
    )  # fmt: skip


def classification_fits(steps: int, width: int) -> bool:
    """Whether `classification` serves sequences of so many steps."""
    return _chunk(steps, width) == steps


def classification(
    shape: tuple[int, int, int],
    settings: Settings,
    dtype: torch.dtype,
    initial: tuple[int, bool],
    others: tuple[int, ...],
) -> int:
    """Run `Classifier` of csrc/classification.h for (B, T, H) and return what it finds out of range, 0 for nothing.

    `initial` is the rank of A(0) and whether there is a dense one, be it given or made by heads. `others` are what
    `PACK_CLASSIFICATION` takes after sizes; tensors are contiguous, gradients of h0 and A(0) are of every sample.
    """
    scratch_size, run = _classification_functions(dtype, instruction_set())
    problem = PACK_CLASSIFICATION(*_sizes(shape, settings, False, *initial), *others)
    scratch = torch.empty(scratch_size(problem), dtype=torch.uint8, device="cpu")
    return run(problem, scratch.data_ptr())


@functools.cache
def _functions(dtype: torch.dtype, variant: str | None) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return library.directions(_LAYOUTS, "fast_weights", dtype, variant)


@functools.cache
def _classification_functions(dtype: torch.dtype, variant: str | None) -> tuple[Any, Any]:
    """What says how much scratch memory `classification` needs, and what runs."""
    return (
        function("classification_scratch", dtype, variant, [ctypes.c_char_p], ctypes.c_int64),
        function("classification", dtype, variant, [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_int64),
    )


def function(name: str, dtype: torch.dtype, variant: str | None, takes: list[Any], returns: Any) -> Any:
    """`library.function` of what is called fast_weights_`name`."""
    return library.function(_LAYOUTS, f"fast_weights_{name}", dtype, variant, takes, returns)

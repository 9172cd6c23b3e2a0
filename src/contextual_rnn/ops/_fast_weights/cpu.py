"""The native CPU kernel of the fast-weights recurrence: the attention form in C++, forward and backward."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.ops._fast_weights.kernel import Given, Settings
from contextual_rnn.ops.memory import address, address_of_nothing, in_memory

# `FastWeightsProblem` of csrc/problem.h: twelve sizes, of which the last is eps, 27 addresses, and for a projection
# one more size and six addresses.
_PROBLEM = struct.Struct("=11qd34q")
# `FastWeightsClassification` of csrc/problem.h: five more sizes, eighteen more addresses, four heads of four.
_CLASSIFICATION = struct.Struct(_PROBLEM.format + "39q")
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """What was built, if it is of these sources: given other structs than its own it would read anywhere."""
    if named := os.environ.get("CONTEXTUAL_RNN_KERNEL"):  # another build, as of `make sanitize`
        if not _takes_ours(library := ctypes.CDLL(named)):
            raise ImportError(f"CONTEXTUAL_RNN_KERNEL: expected a build of these sources, got {named}")
        return library
    library = _installed()
    return library if library is not None and _takes_ours(library) else None


def _installed() -> ctypes.CDLL | None:
    # An editable install keeps the library in a folder of its own, which the package's path names beside the source.
    folders = sys.modules["contextual_rnn.ops"].__path__
    files = [file for folder in folders for file in sorted(Path(folder).glob("*fast_weights_cpu.*"))]
    return ctypes.CDLL(str(files[0])) if files else None


def _takes_ours(library: ctypes.CDLL) -> bool:
    try:
        sizes = [getattr(library, f"fast_weights_{what}_size_baseline")() for what in ("problem", "classification")]
    except AttributeError:
        return False
    return sizes == [_PROBLEM.size, _CLASSIFICATION.size]


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
    if name_of_set := instruction_set():
        return f"available ({name_of_set}, float32 and float64)"
    if _installed() is not None:
        return "not available: built from other sources than these; install the package again"
    return "not available: not built at install, for want of a C++ compiler"


# Known from the start, since torch.compile cannot trace the loading of a library.
_BUILT = instruction_set() is not None


def supports(inputs: Tensor) -> bool:
    """Whether the kernel can run on tensors like `inputs`."""
    return _BUILT and inputs.is_cpu and inputs.dtype in _DTYPES


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


def _shape(given: Given) -> tuple[int, int, int]:
    """(B, T, H), whose last is not that of features."""
    batch, steps, width = given.inputs.shape
    return batch, steps, width if given.weight_ih is None else given.weight_ih.shape[0]


def saved_size(given: Given, settings: Settings) -> int:
    """Elements kept for the backward pass; `Kernel::saved_size` of csrc/memory.h."""
    rank = 0 if given.left is None else given.left.shape[1]
    batch, steps, width = _shape(given)
    chunk, lanes = _chunk(steps, width), 64 // given.inputs.dtype.itemsize
    if chunk < steps:
        block = ((steps + chunk - 1) // chunk + _EVERY - 1) // _EVERY * width * width
    else:
        reads = steps * settings.inner_steps
        block = reads * width * (2 if settings.layer_norm else 1) + reads + reads * steps
        block += (3 if settings.write_before_read and settings.layer_norm else steps + 1) * width
        block += 2 * rank * width + reads * rank
    return (batch + lanes - 1) // lanes * block * lanes


def forward(given: Given, settings: Settings, keep: bool, keep_written: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernel.forward` of kernel.py.

    O(B T (T + H) H) time and O(B T (T + H)) memory to go back for short sequences, O(B T H^2) and O(B T H) for long.
    """
    output = given.inputs.new_empty(_shape(given))
    saved = output.new_empty(saved_size(given, settings) if keep else 0)
    written = torch.empty_like(output) if keep_written else output.new_empty(0)
    addresses = address(output), address(written) if keep_written else 0, address(saved)
    _run(False, given, settings, keep, (*addresses, *(0,) * 13), (0, 0, 0))
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
    """As `Kernel.backward` of kernel.py."""
    output, grad_output, grad_written = output.contiguous(), in_memory(grad_output), in_memory(grad_written)
    made = list(wanted)
    if given.weight_ih is None:
        made[0] = True  # the gradient of inputs in any case: that of the weights comes from it
    grads = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if want and tensor is not None else None
        for tensor, want in zip(given[:10] + given[11:], made, strict=False)
    ]
    addresses = [*map(address, grads)]
    of_projection = 0, 0, 0
    if given.weight_ih is not None:
        of_projection = addresses[0], addresses[10], addresses[11]
        addresses[0] = 0
    others = address(output), 0, address(saved), 0, address(grad_output), address(grad_written), *addresses[:10]
    _run(True, given, settings, True, others, of_projection)
    return [grad for grad, want in zip(grads, wanted, strict=False) if want and grad is not None]


def _run(
    backwards: bool,
    given: Given,
    settings: Settings,
    keep: bool,
    others: tuple[int, ...],
    of_projection: tuple[int, int, int],
) -> None:
    """Call the kernel.

    `others` are the addresses of output, written, saved, scratch and gradients, `of_projection` those of the gradients
    of features, weight_ih and bias.
    """
    tensors = _contiguous(given, settings)  # kept alive until the kernel is done
    try:
        addresses = [0 if tensor is None else tensor.data_ptr() or address_of_nothing(tensor) for tensor in tensors]
    except ValueError as error:
        empty = [tensor is not None and tensor.numel() > 0 and not tensor.data_ptr() for tensor in tensors]
        raise ValueError(f"{Given._fields[empty.index(True)]}: {error}") from None
    input_size, inputs = 0, 0
    if given.weight_ih is not None:
        input_size, inputs, addresses[0] = given.weight_ih.shape[1], addresses[0], 0
    problem = _PROBLEM.pack(
        *_sizes(_shape(given), settings, keep, *_initial_sizes(given), input_size), *addresses[:11], *others,
        input_size, inputs, *addresses[11:], *of_projection,
    )  # fmt: skip
    scratch_size, run = _functions(given.inputs.dtype, instruction_set())[backwards]
    scratch = torch.empty(scratch_size(problem, backwards), dtype=torch.uint8, device="cpu")
    run(problem, scratch.data_ptr())


def _contiguous(given: Given, settings: Settings) -> list[Tensor | None]:
    if given.a0 is not None and settings.shared_a0:
        given = given._replace(a0=given.a0[:1])
    return [None if tensor is None else tensor.contiguous() for tensor in given]


def _initial_sizes(given: Given) -> tuple[int, bool]:
    """The rank of A(0), and whether there is a dense one."""
    return 0 if given.left is None else given.left.shape[1], given.a0 is not None


def _sizes(
    shape: tuple[int, ...], settings: Settings, keep: bool, rank: int, dense: bool, input_size: int = 0
) -> tuple[float, ...]:
    batch, steps, width = shape
    chunk = _chunk(steps, width)
    work = batch * steps * (width + min(chunk, width) + input_size) * width
    threads = torch.get_num_threads() if work > _WORTH_THREADS else 1
    return (
        batch, steps, width, settings.inner_steps, rank, chunk, threads, settings.write_before_read,
        settings.layer_norm, width * width if dense and not settings.shared_a0 else 0, keep, settings.eps,
    )  # fmt: skip


def classification_fits(steps: int, width: int) -> bool:
    """Whether `classification` serves sequences of so many steps."""
    return _chunk(steps, width) == steps


def classification(
    shape: tuple[int, int, int],
    settings: Settings,
    tensors: tuple[Tensor | None, ...],
    grads: tuple[Tensor | None, ...],
    others: list[int],
    made: tuple[int, bool],
) -> int:
    """Run `Classifier` of csrc/classification.h for (B, T, H) and return what it finds out of range, 0 for nothing.

    `tensors` are those of `Given` from weight_hh to retained, contiguous, and `grads` theirs but for the last two;
    those of h0 and A(0) are of every sample. `others` are the fields of `FastWeightsClassification` after the first.
    `made` is the rank of A(0) and whether there is a dense one, be it given or made by heads.
    """
    weight_hh = tensors[0]
    assert weight_hh is not None
    scratch_size, run = _classification_functions(weight_hh.dtype, instruction_set())
    # Without inputs; lengths, output, written, saved, scratch, cotangents and the gradient of inputs; those of the two
    # tables, and a projection.
    problem = _CLASSIFICATION.pack(
        *_sizes(shape, settings, False, *made), 0, *map(address, tensors), *(0,) * 8, *map(address, grads), *(0,) * 9,
        *others,
    )  # fmt: skip
    scratch = torch.empty(scratch_size(problem), dtype=torch.uint8, device="cpu")
    return run(problem, scratch.data_ptr())


@functools.cache
def _functions(dtype: torch.dtype, variant: str | None) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """What says how much scratch memory is needed, and what runs; forward, then backward."""
    library, suffix = _library(), f"{_DTYPES[dtype]}_{variant}"
    scratch = getattr(library, f"fast_weights_scratch_{suffix}")
    scratch.argtypes, scratch.restype = (ctypes.c_char_p, ctypes.c_int64), ctypes.c_int64
    runs = [getattr(library, f"fast_weights_{direction}_{suffix}") for direction in ("forward", "backward")]
    for run in runs:
        run.argtypes, run.restype = (ctypes.c_char_p, ctypes.c_void_p), None
    return (scratch, runs[0]), (scratch, runs[1])


@functools.cache
def _classification_functions(dtype: torch.dtype, variant: str | None) -> tuple[Any, Any]:
    """What says how much scratch memory `classification` needs, and what runs."""
    library, suffix = _library(), f"{_DTYPES[dtype]}_{variant}"
    functions = (
        getattr(library, f"fast_weights_classification_scratch_{suffix}"),
        getattr(library, f"fast_weights_classification_{suffix}"),
    )
    scratch, run = functions
    scratch.argtypes, run.argtypes = (ctypes.c_char_p,), (ctypes.c_char_p, ctypes.c_void_p)
    scratch.restype = run.restype = ctypes.c_int64
    return functions

"""The native CPU kernel of nn.RNN, nn.LSTM and nn.GRU, one layer and direction, forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.ops._gated.kernel import CELLS, Given, Settings
from contextual_rnn.ops._gated.layouts import PACK_BACKWARD, PACK_FORWARD, PROBLEM, STREAM
from contextual_rnn.ops.native import library
from contextual_rnn.ops.native.memory import address, addresses_of, in_memory


def instruction_set() -> str | None:
    """The instruction set that the kernel uses here, None where it was not built."""
    return library.instruction_set(PROBLEM, STREAM)


def availability() -> str:
    """Whether the kernel can run, and why not."""
    return library.availability(PROBLEM, STREAM)


# Known from the start, since torch.compile cannot trace the loading of a library.
_BUILT = instruction_set() is not None


def supports(inputs: Tensor) -> bool:
    """Whether the kernel can run on tensors like `inputs`."""
    return _BUILT and inputs.is_cpu and inputs.dtype in library.DTYPES


# Vectors that a step saves, `saved` of the cells in csrc/cells.h, in the order of `CELLS`.
_SAVED = (5, 4, 1, 1)

# Multiply-adds below which waking a second thread costs more than it saves.
_WORTH_THREADS = 1_000_000


def threads_for(multiply_adds: int) -> int:
    """On how many threads a call of so many multiply-adds runs."""
    return torch.get_num_threads() if multiply_adds > _WORTH_THREADS else 1


def saved_size(given: Given, settings: Settings) -> int:
    """Elements kept for the backward pass; `saved_stride` of csrc/sequences.h for the longest vectors."""
    batch, steps, _ = given.inputs.shape
    width, lanes = given.weight_ih.shape[0] // CELLS[settings.mode], library.lanes(given.inputs.dtype)
    return batch * steps * _SAVED[settings.cell] * ((width + lanes - 1) // lanes * lanes)


def output_like(given: Given) -> Tensor:
    """Memory for the outputs, (B, T, O): with the time first where the inputs have it first in memory."""
    batch, steps, _ = given.inputs.shape
    size = given.weight_hh.shape[1]
    if given.inputs.stride(0) < given.inputs.stride(1):
        # Not a view: autograd refuses to overwrite one that comes with a second result.
        return given.inputs.new_empty_strided((batch, steps, size), (size, batch * size, 1))
    return given.inputs.new_empty(batch, steps, size)


def final_like(given: Given) -> Tensor:
    """Memory for the final states (1, B, O), c beside h."""
    width = 0 if given.c0 is None else given.c0.shape[2]
    return given.inputs.new_empty(1, given.inputs.shape[0], given.weight_hh.shape[1] + width)


def forward(given: Given, settings: Settings, keep: bool, keep_final: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernel.forward` of native/kernel.py; the further result are the final states, which are always kept.

    O(N (I + O) H) time for N steps of all segments. Outputs where no segment is are zero.
    """
    output, final = output_like(given), final_like(given)
    saved = output.new_empty(saved_size(given, settings) if keep else 0)
    tensors = _prepared(given)
    sizes, addresses = _sizes(tensors, settings, keep, output), addresses_of(tensors, Given._fields)
    problem = PACK_FORWARD(*sizes, *addresses, address(output), address(saved), address(final))
    _run(False, given, problem)
    return output, final, saved


def backward(
    given: Given,
    settings: Settings,
    output: Tensor,
    saved: Tensor,
    grad_output: Tensor | None,
    grad_final: Tensor | None,
    wanted: list[bool],
) -> list[Tensor]:
    """As `Kernel.backward` of native/kernel.py."""
    tensors = _prepared(given)
    output = output if output.stride(2) == 1 else output.contiguous()
    sizes = _sizes(tensors, settings, True, output)
    grad_output, grad_final = _rows(grad_output), in_memory(grad_final)
    grads = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if want and tensor is not None else None
        for tensor, want in zip(given, wanted, strict=True)
    ]
    strides = (0, 0) if grad_output is None else grad_output.stride()[:2]
    problem = PACK_BACKWARD(
        *sizes, *addresses_of(tensors, Given._fields), address(output), address(saved), *strides, address(grad_output),
        address(grad_final), *map(address, grads[:-1]),
    )  # fmt: skip
    _run(True, given, problem)
    return [grad for grad in grads if grad is not None]


def _rows(tensor: Tensor | None) -> Tensor | None:
    """The elements as they are, with a last axis without gaps."""
    if tensor is None or (tensor.stride(2) == 1 and not tensor.is_neg() and not tensor._is_zerotensor()):
        return tensor
    return in_memory(tensor)


def _prepared(given: Given) -> Given:
    """Tensors as the kernel reads them, which must be kept until it is done."""
    inputs = given.inputs if given.inputs.stride(2) == 1 else given.inputs.contiguous()
    return Given._make([inputs, *[None if tensor is None else tensor.contiguous() for tensor in given[1:]]])


def _sizes(given: Given, settings: Settings, keep: bool, output: Tensor) -> tuple[int, ...]:
    """The numbers of a call, `SIZES` of layouts.py."""
    inputs, size = given.inputs, given.weight_hh.shape[1]
    batch, steps, input_size = inputs.shape
    width = given.weight_ih.shape[0] // CELLS[settings.mode]
    work = batch * steps * (input_size + size) * given.weight_ih.shape[0]
    threads = threads_for(work)
    return (
        settings.cell, batch, steps, input_size, width, size, given.table.shape[1], threads, settings.reverse, keep,
        *inputs.stride()[:2], *output.stride()[:2],
    )  # fmt: skip


def _run(backwards: bool, given: Given, problem: bytes) -> None:
    scratch_size, run = _functions(given.inputs.dtype, instruction_set())[backwards]
    scratch = torch.empty(scratch_size(problem, backwards), dtype=torch.uint8, device="cpu")
    run(problem, scratch.data_ptr())


@functools.cache
def _functions(dtype: torch.dtype, variant: str | None) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return library.directions((PROBLEM,), "gated", dtype, variant)

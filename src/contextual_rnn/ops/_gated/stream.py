"""The native kernel of nn.RNN, nn.LSTM and nn.GRU, one step a call."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.ops._gated import cpu
from contextual_rnn.ops._gated.kernel import CELLS, Settings
from contextual_rnn.ops._gated.layers import given_of
from contextual_rnn.ops._gated.layouts import PACK_LAYER, PACK_STREAM, PROBLEM, STREAM
from contextual_rnn.ops._gated.operation import check_tensors
from contextual_rnn.ops.native import library
from contextual_rnn.ops.native.memory import address, in_memory
from contextual_rnn.ops.native.stream import Steps

_LAYOUTS = PROBLEM, STREAM


def steps(
    mode: str,
    weights: Sequence[Sequence[Tensor]],
    state: Sequence[Tensor],
    start: Sequence[Tensor],
    output: Tensor,
    features: int,
) -> Steps:
    """Steps of the layers of one direction, with `weights` as `Stack` takes them, for inputs (B, features).

    state and start are h (K, B, O) and, for an LSTM, c (K, B, H); output is (B, O). They stay where they are: a step
    reads and replaces state, and writes output. All are contiguous, of one dtype that the kernel has.

    Raises ValueError for weights that do not fit these or each other.
    """
    gates, dtype, (h, *c), (h0, *c0) = CELLS[mode], output.dtype, state, start
    batch, settings = len(output), Settings.of(mode, False)
    scratch_size, prepare, run = _functions(dtype, cpu.instruction_set())
    multiply_adds = batch * sum(matrix.numel() for layer in weights for matrix in layer)
    threads = cpu.threads_for(multiply_adds)
    layers, memory = b"", [h, *c, h0, *c0, output]
    inputs, table = output.new_empty(batch, 1, features), torch.empty(4, batch, dtype=torch.int64, device="cpu")
    for number, of_layer in enumerate(weights):
        given = given_of(of_layer, inputs, h0[number][None], c0[0][number][None] if c0 else None, table)
        check_tensors(given, settings)
        matrices = [given.weight_ih, given.weight_hh, given.bias_ih, given.bias_hh, given.weight_hr]
        matrices = [None if matrix is None else in_memory(matrix.detach()) for matrix in matrices]
        width, size_of_output = given.weight_hh.shape[0] // gates, given.weight_hh.shape[1]
        sizes = settings.cell, batch, batch, threads, inputs.shape[2], width, size_of_output
        tensors = [*matrices, given.h0, given.c0, h[number], c[0][number] if c else None]
        addresses = [address(tensor) for tensor in tensors]
        size = scratch_size(PACK_LAYER(*sizes, *addresses, 0), 0)
        scratch = torch.empty(size, dtype=torch.uint8, device="cpu")
        layers += PACK_LAYER(*sizes, *addresses, address(scratch))
        memory += [*matrices, scratch]
        inputs = output.new_empty(batch, 1, size_of_output)
    buffer = ctypes.create_string_buffer(layers, len(layers))
    packed = PACK_STREAM(len(weights), batch, threads, ctypes.addressof(buffer), address(output))
    problem = ctypes.create_string_buffer(packed, len(packed))
    prepare(ctypes.addressof(problem))
    return Steps(run, ctypes.addressof(problem), (problem, buffer, *memory))


@functools.cache
def _functions(dtype: torch.dtype, variant: str | None) -> tuple[Any, Any, Any]:
    (scratch_size, _), _ = library.directions(_LAYOUTS, "gated", dtype, variant)
    pointer = ctypes.c_void_p
    prepare = library.function(_LAYOUTS, "gated_prepare_stream", dtype, variant, [pointer], None)
    run = library.function(_LAYOUTS, "gated_step_stream", dtype, variant, [pointer] * 3, None)
    return scratch_size, prepare, run

"""The native kernel of fast weights, one step a call, with A stored."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.dispatch import check_tensors
from contextual_rnn.ops._fast_weights.kernel import Settings
from contextual_rnn.ops._fast_weights.layouts import PACK_STREAM
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions
from contextual_rnn.ops.native.memory import address, in_memory
from contextual_rnn.ops.native.stream import Steps


def steps(
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    options: FastWeightsOptions,
    state: tuple[Tensor, Tensor],
    start: tuple[Tensor, Tensor],
    output: Tensor,
    features: int,
) -> Steps:
    """Steps of the recurrence, for inputs (B, features = I), O(B H (I + H S)) time each.

    weight_ih (H, I), weight_hh (H, H), bias, norm_weight and norm_bias (H,); state and start are h (B, H) and A
    (B, H, H), output is (B, H). They stay where they are: a step reads and replaces state, and writes output. All are
    contiguous, of one dtype that the kernel has.

    Raises ValueError for weights that do not fit these or each other.
    """
    batch, width = output.shape
    inputs = output.new_empty(batch, 1, features)
    check_tensors(inputs, weight_hh, *start, norm_weight, norm_bias, options, weight_ih, bias)
    weights = (weight_ih, bias, weight_hh, norm_weight, norm_bias)
    weights = [None if weight is None else in_memory(weight.detach()) for weight in weights]
    settings = Settings.of(options, False)
    multiply_adds = batch * (weight_ih.numel() + (2 + options.inner_steps) * weight_hh.numel())
    threads = cpu.threads_for(multiply_adds)
    numbers = (
        batch, width, weight_ih.shape[1], options.inner_steps, min(threads, max(1, batch)), settings.write_before_read,
        options.layer_norm, options.eps, *map(_number, (options.decay, options.rate)),
    )  # fmt: skip
    tensors = [*weights, *start, *state, output]
    addresses = [address(tensor) for tensor in tensors]
    scratch_size, prepare, run = _functions(output.dtype, cpu.instruction_set())
    scratch = torch.empty(scratch_size(PACK_STREAM(*numbers, *addresses, 0)), dtype=torch.uint8, device="cpu")
    packed = PACK_STREAM(*numbers, *addresses, address(scratch))
    problem = ctypes.create_string_buffer(packed, len(packed))
    prepare(ctypes.addressof(problem))
    return Steps(run, ctypes.addressof(problem), (problem, scratch, *tensors))


def _number(value: float | Tensor) -> float:
    return value.item() if isinstance(value, Tensor) else value


@functools.cache
def _functions(dtype: torch.dtype, variant: str | None) -> tuple[Any, Any, Any]:
    pointer = ctypes.c_void_p
    return (
        cpu.function("stream_scratch", dtype, variant, [ctypes.c_char_p], ctypes.c_int64),
        cpu.function("prepare_stream", dtype, variant, [pointer], None),
        cpu.function("step_stream", dtype, variant, [pointer] * 3, None),
    )

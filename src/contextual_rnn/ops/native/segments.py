"""A batch cut into segments by the native library: one call where PyTorch takes a dozen operations."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._tensors import PLAIN_TENSORS
from contextual_rnn._torch_internals import transforms
from contextual_rnn.ops.native import library
from contextual_rnn.ops.native.layout import Layout
from contextual_rnn.ops.native.memory import address

CUT = Layout(
    "contextual_rnn_cut",
    [("integer", "batch steps flags_row flags_step"), ("input", "flags"), ("indices", "first lengths")],
)
_PACK = CUT.packer(CUT.names)


def cut(flags: Tensor, first: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """The table of `Segments.between`, (4, N), None where the library cannot make it.

    flags (B, T) of bool; first and lengths (B,) int64 of steps within T; all on the CPU.
    """
    given = [tensor for tensor in (flags, first, lengths) if tensor is not None]
    functions = _functions()
    plain = PLAIN_TENSORS.issuperset(map(type, given)) and not any([tensor._is_zerotensor() for tensor in given])
    if functions is None or not plain or transforms() is not None:  # torch.func wraps the memory that is made in it
        return None
    first, lengths = (None if tensor is None else tensor.contiguous() for tensor in (first, lengths))
    count, fill = functions
    problem = _PACK(*flags.shape, *flags.stride(), address(flags), address(first), address(lengths))
    table = torch.empty(4, count(problem), dtype=torch.int64, device="cpu")
    fill(problem, table.shape[1], table.data_ptr())
    return table


@functools.cache
def _functions() -> tuple[Any, Any] | None:
    if (kernels := library.load(CUT)) is None:
        return None
    count, fill = kernels.contextual_rnn_count_segments, kernels.contextual_rnn_cut
    count.argtypes, count.restype = [ctypes.c_char_p], ctypes.c_int64
    fill.argtypes, fill.restype = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p], None
    return count, fill

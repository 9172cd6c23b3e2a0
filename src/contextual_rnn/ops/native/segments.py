"""A batch cut into segments by the native library: one call where PyTorch takes a dozen operations."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._torch_internals import transforms
from contextual_rnn.ops.native import library
from contextual_rnn.ops.native.autograd import is_eager
from contextual_rnn.ops.native.layout import Layout
from contextual_rnn.ops.native.memory import address, in_memory

CUT = Layout("contextual_rnn_cut", [("integer", "batch steps"), ("input", "flags"), ("indices", "first lengths")])
_PACK = CUT.packer(CUT.names)


def cut(flags: Tensor, first: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """The table of `Segments.between`, (4, N), None where the library cannot make it.

    flags (B, T) of bool; first and lengths (B,) int64 of steps within T; all on the CPU.
    """
    functions = _functions()
    if functions is None or transforms() is not None or not is_eager((flags, first, lengths)):
        return None  # torch.func wraps the memory that is made in it
    count, fill = functions
    given = [in_memory(tensor) for tensor in (flags, first, lengths)]
    problem = _PACK(*flags.shape, *map(address, given))
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

"""The library of native CPU kernels: how it is found, what it was built from, and its functions."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch

from contextual_rnn.ops.native.layout import Layout

DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def lanes(dtype: torch.dtype) -> int:
    """Elements of a register of the largest instruction set; what kernels save has room for any set."""
    return 64 // dtype.itemsize


@functools.cache
def load(*layouts: Layout) -> ctypes.CDLL | None:
    """The library, if it was built for these structs: given others it would read from anywhere in memory."""
    if named := os.environ.get("CONTEXTUAL_RNN_KERNEL"):  # another build, as of `make sanitize`
        if not _has_layouts(library := ctypes.CDLL(named), layouts):
            raise ImportError(f"CONTEXTUAL_RNN_KERNEL: expected a build of these sources, got {named}")
        return library
    library = _installed()
    return library if library is not None and _has_layouts(library, layouts) else None


def _installed() -> ctypes.CDLL | None:
    # An editable install keeps the library in a folder of its own, which the package's path names beside the source.
    folders = sys.modules["contextual_rnn.ops"].__path__
    files = [file for folder in folders for file in sorted(Path(folder).glob("*contextual_rnn_cpu.*"))]
    return ctypes.CDLL(str(files[0])) if files else None


def _has_layouts(library: ctypes.CDLL, layouts: tuple[Layout, ...]) -> bool:
    try:
        functions = [getattr(library, f"{layout.name}_layout") for layout in layouts]
    except AttributeError:
        return False
    for function in functions:
        function.restype = ctypes.c_uint64
    return [function() for function in functions] == [layout.hash for layout in layouts]


@functools.cache
def instruction_set(*layouts: Layout) -> str | None:
    """The instruction set that the kernels use here, None where they were not built for these structs."""
    library = load(*layouts)
    if library is None:
        return None
    library.contextual_rnn_instruction_set.restype = ctypes.c_char_p
    return library.contextual_rnn_instruction_set().decode()


def availability(*layouts: Layout) -> str:
    """Whether kernels that read these structs can run, and why not."""
    if name_of_set := instruction_set(*layouts):
        return f"available ({name_of_set}, float32 and float64)"
    if _installed() is not None:
        return "not available: built from other sources than these; install the package again"
    return "not available: not built at install, for want of a C++ compiler"


def function(
    layouts: tuple[Layout, ...], name: str, dtype: torch.dtype, variant: str | None, takes: list[Any], returns: Any
) -> Any:
    """What the library exports under `name` for elements of `dtype` and an instruction set."""
    library = load(*layouts)
    assert library is not None
    assert variant is not None
    exported = getattr(library, f"{name}_{DTYPES[dtype]}_{variant}")
    exported.argtypes, exported.restype = takes, returns
    return exported


def directions(
    layouts: tuple[Layout, ...], kernel: str, dtype: torch.dtype, variant: str | None
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """What says how much scratch memory a kernel needs, and what runs it; forward, then backward."""
    scratch = function(layouts, f"{kernel}_scratch", dtype, variant, [ctypes.c_char_p, ctypes.c_int64], ctypes.c_int64)
    forward, backward = (
        function(layouts, f"{kernel}_{direction}", dtype, variant, [ctypes.c_char_p, ctypes.c_void_p], None)
        for direction in ("forward", "backward")
    )
    return (scratch, forward), (scratch, backward)

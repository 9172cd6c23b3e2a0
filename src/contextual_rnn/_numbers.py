"""Numbers that come as arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Range(NamedTuple):
    """Which numbers are allowed, in words and as a test."""

    expected: str
    fits: Callable[[float], bool]


FINITE = Range("a finite number", lambda value: True)
NOT_NEGATIVE = Range("a finite number of at least 0", lambda value: value >= 0)
SHARE = Range("a number from 0 to 1", lambda value: 0 <= value <= 1)
DECAY = Range("a number from 0 to below 1", lambda value: 0 <= value < 1)


def check_size(name: str, size: int, least: int = 1) -> None:
    """Refuse a size that is not an int of at least `least`."""
    if type(size) is int and size >= least:
        return
    expected = "a positive int" if least == 1 else f"an int of at least {least}"
    if isinstance(size, bool) or not isinstance(size, int | torch.SymInt):
        raise TypeError(f"{name}: expected {expected}, got {size!r}")
    if size < least:
        raise ValueError(f"{name}: expected {expected}, got {size}")


def check_number(
    name: str, value: Any, expected: str = FINITE.expected, fits: Callable[[float], bool] = FINITE.fits
) -> float:
    """`value` as a float; TypeError for what is no number (a bool, a tensor), ValueError outside the range."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    number = float(value)
    if torch.compiler.is_compiling():
        return number  # which may be symbolic there
    if not (math.isfinite(number) and fits(number)):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return number


_QUANTISED = (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4)


def check_dtype(dtype: Any) -> None:
    """Refuse what is neither None nor the dtype of plain tensors."""
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected a torch.dtype or None, got {dtype!r}")
    if dtype in _QUANTISED:
        raise ValueError(f"dtype: expected one that is not quantised, got {dtype}")


def check_factory(device: Any, dtype: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """`device` and `dtype` as torch's modules take them, for parameters; TypeError or ValueError for anything else."""
    check_dtype(dtype)
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(f"dtype: expected one of floats, got {dtype}")
    if device is None or isinstance(device, torch.device):
        return device, dtype
    if isinstance(device, bool) or not isinstance(device, str | int):
        raise TypeError(f"device: expected a torch.device, its name or None, got {device!r}")
    try:
        return torch.device(device), dtype
    except RuntimeError as error:
        raise ValueError(f"device: expected a torch.device, its name or None, got {device!r}: {error}") from error


def readable(tensor: Tensor) -> bool:
    """Whether Python can read the values: not under torch.compile, vmap or a captured graph, nor on the meta device."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())

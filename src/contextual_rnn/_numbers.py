"""Numbers that come as arguments."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import is_tracing


def check_size(name: str, size: Any, least: int = 1) -> int:
    """`size` as an int of at least `least`.

    Integers of numpy and integer tensors of no axes are such too, bools are not. While torch.export or torch.jit.trace
    runs, a size may stand for any number and is returned as it is.
    """
    if type(size) is int and size >= least:
        return size
    expected = "a positive int" if least == 1 else f"an int of at least {least}"
    if isinstance(size, Tensor):
        if size.ndim or size.dtype.is_floating_point or size.dtype.is_complex or size.dtype == torch.bool:
            raise TypeError(f"{name}: expected {expected}, got {size!r}")
        if is_tracing():
            return size  # pyright: ignore[reportReturnType]
    if not isinstance(size, torch.SymInt):
        try:
            if isinstance(size, bool):
                raise TypeError
            size = operator.index(size)
        except TypeError:
            raise TypeError(f"{name}: expected {expected}, got {size!r}") from None
    if size < least:
        raise ValueError(f"{name}: expected {expected}, got {size}")
    return size  # pyright: ignore[reportReturnType]


def check_number(
    name: str, value: Any, expected: str = "a finite number", fits: Callable[[float], bool] = lambda value: True
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

"""Numbers that come as arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch


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

"""Numbers and flags that are arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch

_MOST = 2**63 - 1  # what torch takes as a size


def check_size(name: str, size: int, least: int = 1) -> None:
    """Refuse a size that is not an int of at least `least`, or that torch cannot count to."""
    if type(size) is int and least <= size <= _MOST:
        return
    expected = "a positive int" if least == 1 else f"an int of at least {least}"
    if isinstance(size, bool) or not isinstance(size, int | torch.SymInt):
        raise TypeError(f"{name}: expected {expected}, got {shortened(size)}")
    if size < least:
        raise ValueError(f"{name}: expected {expected}, got {shortened(size)}")
    if isinstance(size, int) and size > _MOST:
        raise ValueError(f"{name}: expected {expected} below 2**63, got {shortened(size)}")


def check_elements(**sizes: int) -> None:
    """Refuse sizes of one tensor, by name, of which torch cannot count the bytes."""
    if math.prod(sizes.values()) > _MOST // 8:
        values = ", ".join(map(shortened, sizes.values()))
        raise ValueError(f"{', '.join(sizes)}: expected a product that fits in memory, got {values}")


def check_number(
    name: str, value: Any, expected: str = "a finite number", fits: Callable[[float], bool] = lambda value: True
) -> float:
    """`value` as a float; TypeError for what is no number (a bool, a tensor), ValueError outside the range."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {shortened(value)}")
    try:
        number = float(value)
    except OverflowError:  # an int or a fraction beyond the range of float
        number = math.inf
    if torch.compiler.is_compiling():
        return number  # which may be symbolic there
    if not (math.isfinite(number) and fits(number)):
        raise ValueError(f"{name}: expected {expected}, got {shortened(value)}")
    return number


def check_flag(name: str, value: object) -> None:
    """Refuse anything but True and False: every other object has a truth of its own, "no" too."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {shortened(value)}")


def shortened(value: object) -> str:
    """The repr of a value, for the message of an error; an int of more than 4300 digits has none."""
    try:
        text = repr(value)
    except Exception:
        text = f"a value of {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."

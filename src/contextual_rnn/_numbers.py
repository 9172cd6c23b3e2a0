"""Numbers and flags that are arguments."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contextual_rnn._torch_internals import is_tracing, transforms


class Range(NamedTuple):
    """Which numbers are allowed, in words and as a test."""

    expected: str
    fits: Callable[[float], bool]


FINITE = Range("a finite number", lambda value: True)
NOT_NEGATIVE = Range("a finite number of at least 0", lambda value: value >= 0)
POSITIVE = Range("a positive, finite number", lambda value: value > 0)
SHARE = Range("a number from 0 to 1", lambda value: 0 <= value <= 1)
DECAY = Range("a number from 0 to below 1", lambda value: 0 <= value < 1)

_MOST = 2**63 - 1  # what torch takes as a size


def check_size(name: str, size: Any, least: int = 1) -> int:
    """`size` as an int of at least `least` that torch can count to.

    Integers of numpy and integer tensors of no axes are such too, bools are not. While torch.export or torch.jit.trace
    runs, a size may stand for any number and is returned as it is.
    """
    if type(size) is int and least <= size and (torch.compiler.is_compiling() or size <= _MOST):  # unbounded there
        return size
    expected = "a positive int" if least == 1 else f"an int of at least {least}"
    if isinstance(size, Tensor):
        if size.ndim or size.dtype.is_floating_point or size.dtype.is_complex or size.dtype == torch.bool:
            raise TypeError(f"{name}: expected {expected}, got {shortened(size)}")
        if is_tracing():
            return size  # pyright: ignore[reportReturnType]
    if not isinstance(size, torch.SymInt):
        try:
            if isinstance(size, bool) or type(size).__name__ == "bool_":  # numpy's is an index before numpy 2
                raise TypeError
            size = operator.index(size)
        except (TypeError, RuntimeError):
            raise TypeError(f"{name}: expected {expected}, got {shortened(size)}") from None
    if size < least:
        raise ValueError(f"{name}: expected {expected}, got {shortened(size)}")
    if isinstance(size, int) and size > _MOST:
        raise ValueError(f"{name}: expected {expected} below 2**63, got {shortened(size)}")
    return size  # pyright: ignore[reportReturnType]


def check_elements(**sizes: int) -> None:
    """Refuse sizes of one tensor, by name, of which torch cannot count the bytes."""
    if math.prod(sizes.values()) > _MOST // 8:
        values = ", ".join(map(shortened, sizes.values()))
        raise ValueError(f"{', '.join(sizes)}: expected a product that fits in memory, got {values}")


def check_number(
    name: str, value: Any, expected: str = FINITE.expected, fits: Callable[[float], bool] = FINITE.fits
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


def holds(dtype: torch.dtype, number: float) -> bool:
    """Whether a dtype has a number: floats those in their range, rounded; integers and bools whole ones alone."""
    if dtype.is_floating_point or dtype.is_complex:
        return abs(number) <= 1 or abs(number) <= torch.finfo(dtype).max  # the first is quick, and true of most
    if dtype == torch.bool:
        return number in (0, 1)
    return number.is_integer() and torch.iinfo(dtype).min <= number <= torch.iinfo(dtype).max


def check_held(name: str, number: float, dtype: torch.dtype | None) -> None:
    """Refuse a number that a dtype does not have; None is the default dtype."""
    dtype = dtype or torch.get_default_dtype()
    if not holds(dtype, number):
        raise ValueError(f"{name}: expected a number that {dtype} can hold, got {number}")


_QUANTISED = (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4)


def check_dtype(dtype: Any) -> None:
    """Refuse what is neither None nor the dtype of plain tensors."""
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected a torch.dtype or None, got {shortened(dtype)}")
    if dtype in _QUANTISED:
        raise ValueError(f"dtype: expected one that is not quantised, got {dtype}")


def check_device(device: Any, name: str = "device") -> torch.device | None:
    """`device` as torch's modules take it; TypeError or ValueError for anything else."""
    if device is None or isinstance(device, torch.device):
        return device
    if isinstance(device, bool) or not isinstance(device, str | int):
        raise TypeError(f"{name}: expected a torch.device, its name or None, got {shortened(device)}")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name}: expected a torch.device, its name or None, got {shortened(device)}: {reason}"
        ) from error


def check_factory(device: Any, dtype: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """`device` and `dtype` as torch's modules take them, for parameters; TypeError or ValueError for anything else."""
    check_dtype(dtype)
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(f"dtype: expected one of floats, got {dtype}")
    return check_device(device), dtype


def readable(tensor: Tensor) -> bool:
    """Whether Python can read the values: not under torch.compile, vmap or a captured graph, nor on the meta device."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    if transforms() is not None:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def check_flag(name: str, value: object) -> None:
    """Refuse anything but True and False: every other object has a truth of its own, "no" too."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {shortened(value)}")


def check_function(name: str, value: object, expected: str = "a function") -> None:
    """Refuse what cannot be called, and a class, in place of which one of its objects is meant."""
    if not callable(value) or isinstance(value, type):
        received = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name}: expected {expected}, got {received}")


def check_takes(name: str, function: Callable[..., Any], expected: str, *args: Any, **options: Any) -> None:
    """Refuse a function whose signature does not have these arguments."""
    try:
        inspect.signature(function).bind(*args, **options)
    except ValueError:  # some functions written in C have no signature
        pass
    except TypeError as error:
        raise TypeError(f"{name}: expected {expected}, got {shortened(function)}: {error}") from error


def shortened(value: object) -> str:
    """The repr of a value, for the message of an error; an int of more than 4300 digits has none."""
    try:
        text = repr(value)
    except Exception:
        text = f"a value of {type(value).__name__}"
    return shortened_text(text, 80)


def listed(values: Iterable[object]) -> str:
    """Values one after the other, for the message of an error; of many the first."""
    return shortened_text(", ".join(map(str, values)))


def shortened_text(value: object, most: int = 500) -> str:
    """The beginning of a text, or of what an error says, for the message of an error, without control characters."""
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda match: ascii(match[0])[1:-1], str(value))
    return text if len(text) <= most else f"{text[: most - 3]}..."

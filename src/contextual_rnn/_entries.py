"""Lists that are arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from torch import Tensor

from contextual_rnn._numbers import readable, shortened
from contextual_rnn._tensors import check_readable


def entries_of(name: str, values: Any, expected: str, *, once: bool = False) -> list[Any]:
    """The entries of a list, a column of a table, an array or a tensor, as Python's own values.

    With `once` an iterator will do. TypeError for anything else: text, a set and a dict are no lists of values.
    """
    if isinstance(values, Tensor):
        check_readable(name, values)
    wrong = isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable)
    if wrong or not (once or hasattr(values, "__len__")) or getattr(values, "shape", None) == ():
        raise TypeError(f"{name}: expected {expected}, got {shortened(values)}")
    if isinstance(values, Tensor) and not readable(values):
        raise ValueError(f"{name}: expected values that can be read, got those of a program being traced or of vmap")
    return [plain(value) for value in values]


def plain(value: Any) -> Any:
    """Python's own value of an entry of a tensor or array: tensors have another hash than the number they show."""
    return value.tolist() if hasattr(value, "tolist") else value

"""What the readers of tables share of Arrow, which is imported once a table is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
# Columns whose values are texts in a file without types, and which texts of each are missing values: of names an empty
# one alone; None stands for all that Arrow knows, such as NA.
AsWritten = Mapping[str, Sequence[str] | None]


def counted(sizes: Array) -> Array:
    """0 to size - 1 for each of `sizes`, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def require_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError('pyarrow is not installed: pip install "contextual-rnn[compare]"') from error
    return pyarrow


def compute(function: str, *arguments: Any) -> Any:
    """The result of a function of pyarrow.compute, most of which its stubs do not have."""
    import pyarrow.compute

    return pyarrow.compute.call_function(function, list(arguments))


def is_text(kind: Any) -> bool:
    """Whether Arrow's type is one of texts."""
    types = require_pyarrow().types
    return types.is_string(kind) or types.is_large_string(kind)


def is_number_type(kind: Any) -> bool:
    """Whether Arrow's type is one of whole numbers or floats."""
    types = require_pyarrow().types
    return types.is_integer(kind) or types.is_floating(kind)


def is_date_type(kind: Any) -> bool:
    """Whether Arrow's type is one of dates, with a time or without."""
    types = require_pyarrow().types
    return types.is_date(kind) or types.is_timestamp(kind)


def value_type(kind: Any) -> Any:
    """The type of the values of a dictionary, or a type itself."""
    return kind.value_type if require_pyarrow().types.is_dictionary(kind) else kind


def decoded(chunk: Any) -> Any:
    """An array without its dictionary."""
    return chunk.cast(chunk.type.value_type) if require_pyarrow().types.is_dictionary(chunk.type) else chunk


def can_cast(texts: Any, kind: Any) -> bool:
    """Whether Arrow reads a text, or each of several, as a value of a type, or it is missing."""
    import pyarrow as pa

    try:
        texts.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def first_unread(texts: Any, kinds: Sequence[Any]) -> int | None:
    """The place of the first text that Arrow reads as a value of none of the types; None where there is none."""
    if any(can_cast(texts, kind) for kind in kinds):
        return None
    if len(texts) == 1:
        return 0
    half = len(texts) // 2
    if (place := first_unread(texts.slice(0, half), kinds)) is not None:
        return place
    place = first_unread(texts.slice(half), kinds)
    return None if place is None else half + place


def check_once(names: Iterable[str], place: str = "") -> None:
    """Raises ValueError for a column that stands twice."""
    if double := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"table: expected each column once, got {double[0]!r} twice{place}")


@contextmanager
def readable(name: str) -> Generator[None, None, None]:
    """What Arrow cannot read in a column is a ValueError that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"{name}: expected values that Arrow can read, got: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

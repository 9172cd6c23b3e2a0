"""What kind of values a column has, when the user does not say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.arrow import is_number_type, is_text, value_type
from contextual_rnn.experiments.panels.source import Source
from contextual_rnn.experiments.panels.values import Category, Column, Quantity, is_number

FEW = 20  # distinct whole numbers that may be labels
# With a decimal comma or marks of thousands; and with a currency, a percent sign or a unit.
WRITTEN = r"[-+]?(\d{1,3}([., ]\d{3})+|\d+)([.,]\d+)?"
OTHERWISE_WRITTEN = re.compile(rf"[$€£¥]? ?{WRITTEN}( ?(%|[$€£¥]|[^\W\d_]{{1,4}}))?")
MISTAKES = 0.5  # a column of texts of which more are numbers is one of numbers with mistakes
LOOKED_AT = 10_000  # distinct texts


def kind_of(source: Source, name: str) -> str:
    """quantity, category or set, from the type of the column. Raises ValueError for other types."""
    kinds = _possible(source, name)
    if not kinds:
        raise ValueError(f"{name}: expected numbers, texts or lists of texts, got values of type {source.types[name]}")
    return kinds[0]


def check_kind(source: Source, name: str, kind: str) -> None:
    """Raises ValueError for a kind that the type of a column cannot be."""
    which, _, separator = kind.partition(":")
    text = is_text(value_type(source.types[name]))
    if which not in _possible(source, name) or (which == "set" and text != bool(separator)):
        expected = {"quantity": "numbers", "category": "texts, numbers or booleans", "set": "lists of texts or numbers"}
        words = expected.get(kind, "texts with members that a separator separates")
        raise ValueError(f"{name}: expected {words}, as its kind is {kind!r}, got values of type {source.types[name]}")


def _possible(source: Source, name: str) -> tuple[str, ...]:
    """The kinds that a column can be, the likeliest first."""
    import pyarrow as pa

    kind = value_type(source.types[name])
    if pa.types.is_null(kind):
        raise ValueError(f"{name}: expected at least one value, got {source.rows} missing ones")
    if is_number_type(kind):
        return "quantity", "category"
    if is_text(kind):
        return "category", "quantity", "set"
    if pa.types.is_boolean(kind):
        return "category", "quantity"
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return ("set",) if lists and (is_text(kind.value_type) or is_number_type(kind.value_type)) else ()


def is_empty(source: Source, name: str) -> bool:
    """Whether a column has no values that could have a type, such as one of empty cells in a CSV file."""
    import pyarrow as pa

    return pa.types.is_null(value_type(source.types[name]))


def doubts(name: str, column: Column) -> str | None:
    """A warning where values could be of another kind than the one recognised.

    Raises ValueError for texts of which most are numbers, but for some or but for how they are written.
    """
    if isinstance(column, Quantity):
        return _labels(name, column)
    if isinstance(column, Category) and len(column.categories) == 1 and not column.missing.any():
        return _constant(name)
    if not isinstance(column, Category) or not isinstance(column.categories[0], str):
        return None
    texts: list[Any] = column.categories[:LOOKED_AT]
    if all(map(is_number, texts)):
        return f"{name}: its texts are all numbers and are read as categories; as numbers: {_saying(name, 'quantity')}"
    check_no_numbers(name, texts, column)
    written = [text for text in texts if OTHERWISE_WRITTEN.fullmatch(text.strip())]
    if len(written) <= MISTAKES * len(texts):
        return None
    if len(written) > FEW and all(re.fullmatch(WRITTEN, text.strip()) for text in texts):
        raise ValueError(
            f"{name}: expected numbers such as 1234.5, as its values seem to be, got {written[0]!r}; "
            f"if they are names: {_saying(name, 'category')}"
        )
    return f"{name}: its texts look like numbers, such as {written[0]!r}, and are read as categories"


def check_no_numbers(name: str, texts: Sequence[Any], column: Category | None = None) -> None:
    """Raises ValueError for texts of which most but not all are numbers; they are rows, or values of `column`."""
    others = [text for text in texts if not is_number(text)]
    if not others or len(texts) - len(others) <= MISTAKES * len(texts):
        return
    place = texts.index(others[0])
    row = place if column is None else int((column.codes == place).argmax())
    raise ValueError(
        f"{name}: expected numbers, as most of its values are, got {others[0]!r} in row {row + 1} "
        f"(and {len(others) - 1} other texts); if they are names: {_saying(name, 'category')}"
    )


def _labels(name: str, column: Quantity) -> str | None:
    values = np.unique(column.values[~column.missing])
    if len(values) == 1 and not column.missing.any():
        return _constant(name)
    if len(values) > FEW or (values != np.round(values)).any() or set(values.tolist()) <= {0.0, 1.0}:
        return None
    return (
        f"{name}: its {len(values)} different whole numbers are read as quantities; "
        f"if they are labels: {_saying(name, 'category')}"
    )


def _constant(name: str) -> str:
    return f"{name}: it has the same value in every row, from which nothing can be learned"


def _saying(name: str, kind: str) -> str:
    return f"kinds={{{name!r}: {kind!r}}}"

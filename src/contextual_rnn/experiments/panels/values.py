"""Columns in memory: quantities as floats, categories and members of sets as codes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.arrow import (
    Array,
    can_cast,
    compute,
    counted,
    decoded,
    first_unread,
    is_date_type,
    is_number_type,
    is_text,
    readable,
    value_type,
)
from contextual_rnn.experiments.panels.source import Source

ROUNDED = 1e-4  # of the standard deviation: the rounding from which on a column is kept in float64


@dataclass(frozen=True)
class Quantity:
    """Numbers (n,), NaN where missing."""

    values: Array
    kind = "quantity"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def missing(self) -> Array:
        return np.isnan(self.values)

    def keys(self) -> Array:
        """A number for each row that is the same where the values are; those of rows without one mean nothing."""
        return self.values

    def take(self, rows: Array) -> Quantity:
        """The values of `rows`; missing where a row is negative."""
        values = self.values[rows]
        if (absent := rows < 0).any():
            values[absent] = np.nan
        return Quantity(values)


@dataclass(frozen=True)
class Category:
    """Codes (n,) of `categories`, -1 where missing."""

    codes: Array
    categories: list[Hashable]
    kind = "category"

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def missing(self) -> Array:
        return self.codes < 0

    def keys(self) -> Array:
        return self.codes

    def take(self, rows: Array) -> Category:
        codes = self.codes[rows]
        if (absent := rows < 0).any():
            codes[absent] = -1
        return Category(codes, self.categories)


@dataclass(frozen=True)
class Members:
    """Sets: that of row i is `codes[starts[i] : starts[i] + sizes[i]]`; its size is -1 where it is missing."""

    starts: Array
    sizes: Array
    codes: Array
    categories: list[Hashable]
    kind = "set"

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def missing(self) -> Array:
        return self.sizes < 0

    def take(self, rows: Array) -> Members:
        starts, sizes = self.starts[rows], self.sizes[rows]
        sizes[rows < 0] = -1
        return Members(starts, sizes, self.codes, self.categories)

    def pairs(self) -> tuple[Array, Array]:
        """Every member of every set: its row, and its code."""
        sizes = np.maximum(self.sizes, 0)
        row = np.repeat(np.arange(len(self)), sizes)
        codes = self.codes[np.repeat(self.starts, sizes) + counted(sizes)]
        known = codes >= 0  # a list may hold missing members
        return row[known], codes[known]

    def keys(self) -> Array:
        """Sums of random numbers of the members, which differ where sets do but for rounding."""
        row, codes = self.pairs()
        key = np.random.default_rng(0).random(len(self.categories))
        return np.round(np.bincount(row, key[codes], len(self)), 9)


Column = Quantity | Category | Members


def read_column(source: Source, name: str, kind: str, dtype: Any = np.float32) -> Column:
    """A column of `kind`; quantities are numbers of `dtype`. Raises ValueError for values of another kind."""
    with readable(name):
        if kind == "quantity":
            return _read_quantity(source, name, dtype)
        if kind == "category":
            codes, values = read_codes(source, name)
            _check_whole(name, values)
            return Category(codes, values.to_pylist())
        return _read_members(source, name, kind.partition(":")[2])


def _read_quantity(source: Source, name: str, dtype: Any) -> Quantity:
    values, row, rounded = np.empty(source.rows, dtype), 0, 0.0
    for chunk in source.read(name):
        numbers = _numbers(name, chunk, row)
        with np.errstate(over="ignore"):  # seen below
            values[row : row + len(chunk)] = numbers
        if (infinite := np.isinf(values[row : row + len(chunk)])).any():
            place = int(infinite.argmax())
            expected = f"finite numbers that {values.dtype} can hold"
            raise ValueError(f"{name}: expected {expected}, got {numbers[place]} in row {row + place + 1}")
        if (known := ~np.isnan(numbers)).any():
            rounded = max(rounded, float(np.abs(values[row : row + len(chunk)] - numbers)[known].max()))
        row += len(chunk)
    # A small spread around a large number, such as a pressure or a time, is lost in fewer digits.
    if dtype != np.float64 and rounded > ROUNDED * _spread(values):
        return _read_quantity(source, name, np.float64)
    return Quantity(values)


def _spread(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(dtype=np.float64)) if len(known) else 0.0


def _numbers(name: str, chunk: Any, row: int) -> Array:
    import pyarrow as pa

    chunk = decoded(chunk)
    if is_text(chunk.type):
        chunk = compute("utf8_trim_whitespace", chunk)
        try:
            return chunk.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            place = first_unread(chunk, [pa.float64()])
            assert place is not None
            text = chunk[place].as_py()
            raise ValueError(f"{name}: expected numbers, got {text!r} in row {row + place + 1}") from None
    return chunk.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def is_number(text: str | None) -> bool:
    """Whether Arrow reads a text as a number, or it is missing."""
    import pyarrow as pa

    return can_cast(pa.scalar(text and text.strip(), pa.string()), pa.float64())


def read_codes(source: Source, name: str) -> tuple[Array, Any]:
    """Codes (n,), -1 where missing, of the distinct values of a column, an Arrow array in their order of appearance."""
    import pyarrow as pa

    chunks = [chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode() for chunk in source.read(name)]
    if not chunks:
        return np.empty(0, np.int32), pa.array([], pa.string())
    column = pa.chunked_array(chunks).unify_dictionaries()
    dictionary = column.chunk(0).dictionary if len(column.chunks) else pa.array([], pa.string())
    codes = np.concatenate([chunk.indices.cast(pa.int32()).fill_null(-1).to_numpy() for chunk in column.chunks])
    # A dictionary may hold values twice, missing ones, and values that no row has.
    return _compact(codes.astype(np.int32, copy=False), dictionary)


def read_names(source: Source, name: str) -> tuple[Array, list[Any]]:
    """Codes (n,), -1 where missing, of the names of series: numbers, texts, booleans, and dates as texts."""
    import pyarrow as pa

    kind = value_type(source.types[name])
    dates = is_date_type(kind)
    if not (dates or is_text(kind) or is_number_type(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise ValueError(f"{name}: expected names, numbers or dates, got values of type {kind}")
    with readable(name):
        codes, values = read_codes(source, name)
        _check_whole(name, values)
        return codes, (values.cast(pa.string()) if dates else values).to_pylist()


def _check_whole(name: str, values: Any) -> None:
    """Raises ValueError for names that are floats so large that different whole numbers are the same float."""
    import pyarrow as pa

    if not pa.types.is_floating(values.type) or not len(values):
        return
    numbers = np.abs(values.to_numpy(zero_copy_only=False))
    if numbers.max() >= 2.0 ** (np.finfo(numbers.dtype).nmant + 1):
        raise ValueError(
            f"{name}: expected texts, or whole numbers that keep all of their digits, got {numbers.max():g} of type "
            f"{values.type}, which stands for several of them; with a letter before each they are texts"
        )


def _compact(codes: Array, dictionary: Any) -> tuple[Array, Any]:
    import pyarrow as pa

    distinct = dictionary.dictionary_encode()
    same = distinct.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False).copy()
    if len(same) == 0:
        return codes, dictionary
    same[dictionary.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)] = -1
    used = np.zeros(len(same), bool)
    used[codes[codes >= 0]] = True
    values = np.unique(same[used & (same >= 0)])
    renumbered = np.full(len(same) + 1, -1, np.int32)
    place = np.full(len(distinct.dictionary), -1, np.int32)
    place[values] = np.arange(len(values), dtype=np.int32)
    renumbered[:-1] = np.where(same >= 0, place[same], -1)
    return renumbered[codes], distinct.dictionary.take(pa.array(values))


def _read_members(source: Source, name: str, separator: str) -> Members:
    import pyarrow as pa

    sizes, flat = [], []
    for chunk in source.read(name):
        chunk = decoded(chunk)
        if separator:
            chunk = _split_text(chunk, separator)
        sizes.append(compute("list_value_length", chunk).cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False))
        flat.append(compute("list_flatten", chunk))
    members = Source(name, sum(map(len, flat)), {}, lambda _: iter(flat))
    codes, values = read_codes(members, name)
    size = np.concatenate([np.empty(0, np.int32), *sizes])
    starts = np.cumsum(np.maximum(size, 0)) - np.maximum(size, 0)
    return Members(starts, size, codes, values.to_pylist())


def _split_text(chunk: Any, separator: str) -> Any:
    """Lists of the trimmed members of each text; an empty text has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = pc.call_function("split_pattern", [chunk], pc.SplitPatternOptions(separator))
    flat = compute("utf8_trim_whitespace", compute("list_flatten", lists))
    keep = compute("not_equal", flat, "")
    parents = compute("list_parent_indices", lists).filter(keep).to_numpy()
    sizes = np.bincount(parents, minlength=len(chunk)).astype(np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, flat.filter(keep), mask=chunk.is_null())

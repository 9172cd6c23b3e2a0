"""Columns of a table in the order of its steps, and one value for each series where it must be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.columns import Columns
from contextual_rnn.experiments.panels.recognition import check_kind, doubts, kind_of
from contextual_rnn.experiments.panels.source import Source
from contextual_rnn.experiments.panels.steps import Steps
from contextual_rnn.experiments.panels.values import Category, Column, Members, Quantity, read_column

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Reader:
    """Reads columns, and notes what they are.

    With `checked` a column must have values, and a target must vary: a table that is predicted may be without.
    """

    source: Source
    columns: Columns
    steps: Steps
    names: Sequence[Any]
    warnings: list[str]
    checked: bool = True
    kinds: dict[str, str] = field(default_factory=dict)
    described: dict[str, dict[str, Any]] = field(default_factory=dict)

    def by_step(self, name: str, kind: str | None = None, dtype: Any = np.float32) -> Column:
        """A column (steps,)."""
        return self.whole(name, kind, dtype).take(self.steps.rows)

    def by_series(self, name: str, kind: str | None = None) -> Column:
        """A column (series,). Raises ValueError where it changes within a series."""
        column = self.by_step(name, kind, np.float64)
        value = self._first_values(column)
        if (place := self._first_change(column, value)) is not None:
            raise ValueError(
                f"{name}: expected one value for each {self.columns.series or 'table'}, got several for "
                f"{self.names[place]}; a value that changes belongs to inputs"
            )
        return value

    def target(self) -> tuple[Column, str]:
        """The target: (series,) where it is the same at all steps of each, else (steps,)."""
        name = self.columns.target
        column = self.by_step(name)
        if isinstance(column, Members):
            raise ValueError(f"{name}: expected a target of numbers or categories, got sets")
        value = self._first_values(column)
        if np.diff(self.steps.offsets).max() > 1 and self._first_change(column, value) is None:
            self._check_varies(value)
            return value, "series"
        self._check_varies(column)
        return column, "step"

    def target_per(self, per: str) -> Column:
        """The target of a table that is predicted; all missing where the table has none."""
        name = self.columns.target
        if name in self.source.types:
            return self.by_series(name) if per == "series" else self.by_step(name)
        missing = np.full(self.source.rows, -1, np.int32)
        quantity = self.columns.kinds[name] == "quantity"
        column = Quantity(np.full(self.source.rows, np.nan, np.float32)) if quantity else Category(missing, [])
        column = column.take(self.steps.rows)
        return self._first_values(column) if per == "series" else column

    def whole(self, name: str, kind: str | None = None, dtype: Any = np.float32) -> Column:
        """A column in the order of the table."""
        asked = kind or self.columns.kinds.get(name)
        kind = asked or kind_of(self.source, name)
        if asked is not None:
            check_kind(self.source, name, asked)
        column = read_column(self.source, name, kind, dtype)
        if self.checked and column.missing.all():
            raise ValueError(f"{name}: expected at least one value, got {len(column)} missing ones")
        if asked is None and (doubt := doubts(name, column)) is not None:
            self.warnings.append(doubt)
        self.kinds[name] = kind
        self.described[name] = _described(column)
        return column

    def _check_varies(self, column: Column) -> None:
        assert not isinstance(column, Members)
        values = column.values if isinstance(column, Quantity) else column.codes
        values = values[~column.missing]
        if self.checked and (values == values[0]).all():
            name = self.columns.target
            raise ValueError(f"{name}: expected a target that varies, got the same value in every row")

    def _series_of_steps(self) -> Array:
        return np.repeat(self.steps.series, np.diff(self.steps.offsets))

    def _first_values(self, column: Column) -> Column:
        """The first value of each series that is not missing."""
        present = np.flatnonzero(~column.missing)
        rows = np.full(len(self.names), -1, np.int64)
        rows[self._series_of_steps()[present[::-1]]] = present[::-1]
        return column.take(rows)

    def _first_change(self, column: Column, value: Column) -> int | None:
        """A series of which a value differs from the first, if there is one; missing values do not count."""
        series_of = self._series_of_steps()
        if isinstance(column, Quantity) and isinstance(value, Quantity):
            differs = column.values != value.values[series_of]
        elif isinstance(column, Category) and isinstance(value, Category):
            differs = column.codes != value.codes[series_of]
        else:
            assert isinstance(column, Members)
            assert isinstance(value, Members)
            differs = np.abs(_fingerprints(column) - _fingerprints(value)[series_of]) > 1e-9
        differs &= ~column.missing
        return int(series_of[differs.argmax()]) if differs.any() else None


def _fingerprints(sets: Members) -> Array:
    """Sums of random numbers of the members, which differ where sets do."""
    row, codes = sets.pairs()
    key = np.random.default_rng(0).random(len(sets.categories))
    return np.bincount(row, key[codes], len(sets))


def _described(column: Column) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": column.kind, "missing": int(column.missing.sum())}
    if not isinstance(column, Quantity):
        return described | {"categories": len(column.categories)}
    values = column.values[~column.missing]
    return described | ({"least": float(values.min()), "most": float(values.max())} if len(values) else {})

"""Columns of a table in the order of its steps, and one value for each series where it must be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.arrow import Array
from contextual_rnn.experiments.panels.columns import Columns
from contextual_rnn.experiments.panels.recognition import check_kind, doubts, is_empty, kind_of
from contextual_rnn.experiments.panels.source import Source
from contextual_rnn.experiments.panels.steps import Steps
from contextual_rnn.experiments.panels.values import Category, Column, Members, Quantity, read_column


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

    def by_step(self, name: str, dtype: Any = np.float32) -> Column:
        """A column (steps,)."""
        return self.whole(name, dtype).take(self.steps.rows)

    def by_series(self, name: str) -> Column:
        """A column (series,). Raises ValueError where it changes within a series."""
        return self._one_for_each(name, self.by_step(name, np.float64))

    def _one_for_each(self, name: str, column: Column) -> Column:
        value = self._first_values(column)
        if (place := self._first_change(column, value)) is not None:
            raise ValueError(
                f"{name}: expected one value for each {self.columns.series or 'table'}, got several for "
                f"{self.names[place]}; a value that changes belongs to inputs"
            )
        return value

    def groups(self) -> Category:
        """The group of each series. Raises as `by_series`."""
        groups = self._one_for_each(self.columns.group or "", self.whole_group().take(self.steps.rows))
        assert isinstance(groups, Category)
        return groups

    def whole_group(self) -> Category:
        """The group column in the order of the table: categories, whatever kind it has as an input or context."""
        name = self.columns.group
        assert name is not None
        check_kind(self.source, name, "category")
        groups = read_column(self.source, name, "category")
        assert isinstance(groups, Category)
        self.described.setdefault(name, _described(groups))
        return groups

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
        column = self._nothing(name, self.columns.kinds[name]).take(self.steps.rows)
        return self._first_values(column) if per == "series" else column

    def _nothing(self, name: str, kind: str) -> Column:
        """A column of a table that is predicted, without a value."""
        rows = self.source.rows
        column: Column = Category(np.full(rows, -1, np.int32), [])
        if kind == "quantity":
            column = Quantity(np.full(rows, np.nan, np.float32))
        elif kind.startswith("set"):
            column = Members(np.zeros(rows, np.int64), np.full(rows, -1, np.int32), np.empty(0, np.int32), [])
        self.kinds[name], self.described[name] = kind, _described(column)
        return column

    def whole(self, name: str, dtype: Any = np.float32) -> Column:
        """A column in the order of the table."""
        asked = self.columns.kinds.get(name)
        if asked is not None and not self.checked and is_empty(self.source, name):
            return self._nothing(name, asked)
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
        values = column.keys()[~column.missing]
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
        differs = (column.keys() != value.keys()[series_of]) & ~column.missing
        return int(series_of[differs.argmax()]) if differs.any() else None


def _described(column: Column) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": column.kind, "missing": int(column.missing.sum())}
    if not isinstance(column, Quantity):
        return described | {"categories": len(column.categories)}
    values = column.values[~column.missing]
    return described | ({"least": float(values.min()), "most": float(values.max())} if len(values) else {})

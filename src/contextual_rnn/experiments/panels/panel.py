"""A table of sequences in memory, in order, with what was understood of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.columns import Columns
from contextual_rnn.experiments.panels.recognition import doubts, kind_of
from contextual_rnn.experiments.panels.source import Source, open_table
from contextual_rnn.experiments.panels.steps import Steps, in_order
from contextual_rnn.experiments.panels.times import read_times
from contextual_rnn.experiments.panels.values import Category, Column, Members, Quantity, read_codes, read_column

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Panel:
    """Sequences of a table.

    `columns` has the kind of every column. `steps` says in which order rows are read. `inputs` are columns (steps,),
    `context` (sequences,), `target` (steps,) or, where it is one value a series, (sequences,). Names of series and
    groups are values of the table; `group` (series,) says which group a series is in. `summary` counts, and holds the
    warnings.
    """

    columns: Columns
    steps: Steps
    inputs: dict[str, Column]
    context: dict[str, Column]
    target: Column
    target_per: str
    sequence: Array
    series: Array
    series_names: list[Any]
    group: Array
    group_names: list[Any]
    summary: dict[str, Any]


def read_panel(table: Any, columns: Columns) -> Panel:
    """Read the columns of a table: a CSV or Parquet file, several, a folder of parts, a data frame, or Arrow data.

    Raises ValueError that names the column for one that is missing, has no value, or has values of another kind than
    the rest; for two rows of the same series and time; for a context that changes within a series; and for a target
    that is constant. What is only doubtful is a warning in `summary`. Raises TypeError for what is no table, and
    ImportError without pyarrow.
    """
    source = open_table(table, columns.names)
    _check_names(source, columns)
    warnings: list[str] = []
    steps, names, left_out = _order(source, columns, warnings)
    reader = _Reader(source, columns, steps, names, warnings)
    target, target_per = reader.target()
    inputs = {name: reader.by_step(name) for name in columns.inputs if name != columns.target}
    context = {name: reader.by_series(name) for name in columns.context}
    group, group_names = np.arange(len(names), dtype=np.int32), names
    if columns.group is not None:
        groups = reader.by_series(columns.group, "category")
        assert isinstance(groups, Category)
        if groups.missing.any():
            raise ValueError(
                f"{columns.group}: expected a group for every series, got none for {int(groups.missing.sum())}"
            )
        group, group_names = groups.codes, groups.categories
    if not steps.was_sorted:
        warnings.append("rows were not in order of series and time: they have been sorted")
    lengths = np.bincount(steps.series, np.diff(steps.offsets), len(names)).astype(int)
    summary = {
        "rows": {"read": source.rows, "used": source.rows - sum(left_out.values()), "left out": left_out},
        "series": len(names),
        "pieces": len(steps.series),
        "steps": {
            "total": len(steps.rows),
            "filled": steps.filled,
            "shortest": int(lengths.min()),
            "median": float(np.median(lengths)),
            "longest": int(lengths.max()),
        },
        "time": {"column": columns.time, "step": steps.grid, "long gaps": steps.gaps},
        "target": {"column": columns.target, "per": target_per},
        "columns": reader.described,
        "warnings": warnings,
    }
    return Panel(
        columns=replace(columns, kinds=reader.kinds),
        steps=steps,
        inputs=inputs,
        context=context,
        target=target,
        target_per=target_per,
        sequence=steps.series,
        series=np.arange(len(names), dtype=np.int32),
        series_names=names,
        group=group,
        group_names=group_names,
        summary=summary,
    )


def _check_names(source: Source, columns: Columns) -> None:
    missing = [name for name in columns.names if name not in source.types]
    if missing:
        raise ValueError(
            f"columns: expected {', '.join(missing)} in the table, got {', '.join(source.types) or 'none'}"
        )
    if not source.rows:
        raise ValueError("table: expected rows, got none")


def _order(source: Source, columns: Columns, warnings: list[str]) -> tuple[Steps, list[Any], dict[str, int]]:
    if columns.series is None:
        series, names = np.zeros(source.rows, np.int32), ["all rows"]
    else:
        series, values = read_codes(source, columns.series)
        names = values.to_pylist()
    times = None if columns.time is None else read_times(source, columns.time)
    left_out: dict[str, int] = {}
    if without := int((series < 0).sum()):
        left_out[f"{columns.series} is missing"] = without
    if times is not None and (without := int((times.missing & (series >= 0)).sum())):
        left_out[f"{columns.time} is missing"] = without
    warnings += [f"rows left out because {reason}: {count}" for reason, count in left_out.items()]
    if sum(left_out.values()) == source.rows:
        raise ValueError(f"{columns.series}: expected rows with a series and a time, got none")
    steps = in_order(series, times, names, columns.fill_gaps, (columns.series or "series", columns.time or "time"))
    if not steps.regular:
        warnings.append(f"{columns.time}: {steps.grid}: times give the order alone, and no gap is seen")
    if len(absent := np.setdiff1d(np.arange(len(names)), steps.series)):
        warnings.append(f"series of which no row has a time: {len(absent)}, such as {names[absent[0]]}")
    return steps, names, left_out


@dataclass
class _Reader:
    """Reads columns in the order of the steps, and notes what they are."""

    source: Source
    columns: Columns
    steps: Steps
    names: Sequence[Any]
    warnings: list[str]

    def __post_init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.described: dict[str, dict[str, Any]] = {}

    def by_step(self, name: str, kind: str | None = None, dtype: Any = np.float32) -> Column:
        given = kind or self.columns.kinds.get(name)
        kind = given or kind_of(self.source, name)
        column = read_column(self.source, name, kind, dtype)
        if column.missing.all():
            raise ValueError(f"{name}: expected at least one value, got {len(column)} missing ones")
        if given is None and (doubt := doubts(name, column)) is not None:
            self.warnings.append(doubt)
        self.kinds[name] = kind
        self.described[name] = _described(column)
        return column.take(self.steps.rows)

    def by_series(self, name: str, kind: str | None = None) -> Column:
        """One value for each series. Raises ValueError where it changes within a series."""
        column = self.by_step(name, kind, np.float64)
        value = first_values(column, self.steps, len(self.names))
        if (place := first_change(column, value, self.steps)) is not None:
            raise ValueError(
                f"{name}: expected one value for each {self.columns.series or 'table'}, got several for "
                f"{self.names[place]}; a value that changes belongs to inputs"
            )
        return value

    def target(self) -> tuple[Column, str]:
        """The target, and whether it is one value a step or a series."""
        name = self.columns.target
        column = self.by_step(name)
        if isinstance(column, Members):
            raise ValueError(f"{name}: expected a target of numbers or categories, got sets")
        if _constant(column):
            raise ValueError(f"{name}: expected a target that varies, got the same value in every row")
        value = first_values(column, self.steps, len(self.names))
        several = np.diff(self.steps.offsets).max() > 1
        if several and first_change(column, value, self.steps) is None:
            return value, "series"
        return column, "step"


def first_values(column: Column, steps: Steps, series: int) -> Column:
    """The first value of each series that is not missing."""
    present = np.flatnonzero(~column.missing)
    series_of = np.repeat(steps.series, np.diff(steps.offsets))[present]
    rows = np.full(series, -1, np.int64)
    rows[series_of[::-1]] = present[::-1]
    return column.take(rows)


def first_change(column: Column, value: Column, steps: Steps) -> int | None:
    """A series of which a value differs from the first, if there is one; missing values do not count."""
    series_of = np.repeat(steps.series, np.diff(steps.offsets))
    if isinstance(column, Quantity):
        assert isinstance(value, Quantity)
        differs = column.values != value.values[series_of]
    elif isinstance(column, Category):
        assert isinstance(value, Category)
        differs = column.codes != value.codes[series_of]
    else:
        differs = _sets_differ(column, value, series_of)
    differs &= ~column.missing
    return int(series_of[differs.argmax()]) if differs.any() else None


def _sets_differ(column: Members, value: Column, series_of: Array) -> Array:
    """Compares sums of random numbers of the members, which differ where the sets do."""
    assert isinstance(value, Members)
    key = np.random.default_rng(0).random(len(column.categories))

    def sums(sets: Members) -> Array:
        row, codes = sets.pairs()
        return np.bincount(row, key[codes], len(sets))

    return np.abs(sums(column) - sums(value)[series_of]) > 1e-9


def _constant(column: Quantity | Category) -> bool:
    values = column.values if isinstance(column, Quantity) else column.codes
    values = values[~column.missing]
    return bool((values == values[0]).all())


def _described(column: Column) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": column.kind, "missing": int(column.missing.sum())}
    if isinstance(column, Quantity):
        return described | {"least": float(np.nanmin(column.values)), "most": float(np.nanmax(column.values))}
    return described | {"categories": len(column.categories)}

"""A table of sequences in memory, in order, with what was understood of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from contextual_rnn._numbers import listed, shortened
from contextual_rnn.experiments.panels.arrow import Array
from contextual_rnn.experiments.panels.columns import Columns
from contextual_rnn.experiments.panels.encoding import Encoding
from contextual_rnn.experiments.panels.leaks import leaks
from contextual_rnn.experiments.panels.reader import Reader
from contextual_rnn.experiments.panels.source import Source, open_table
from contextual_rnn.experiments.panels.steps import Steps, in_order
from contextual_rnn.experiments.panels.texts import read_texts, tokens_of
from contextual_rnn.experiments.panels.times import read_times
from contextual_rnn.experiments.panels.values import Category, Column, read_names


@dataclass(frozen=True)
class Panel:
    """Sequences of a table.

    `columns` has the kind of every column. `steps` says in which order rows are read. `inputs` are columns (steps,),
    `context` (sequences,), `target` (steps,) or, where it is one value a series, (sequences,). `series` (sequences,)
    and `group` (series,) are codes of `series_names` and `group_names`, values of the table: only of texts have several
    sequences one series. `summary` counts, and holds the warnings.
    """

    columns: Columns
    steps: Steps
    inputs: dict[str, Column]
    context: dict[str, Column]
    target: Column
    target_per: str
    series: Array
    series_names: list[Any]
    group: Array
    group_names: list[Any]
    summary: dict[str, Any]


def read_panel(table: Any, columns: Columns, like: Encoding | None = None) -> Panel:
    """Read the columns of a table: a CSV or Parquet file, several, a folder of parts, a data frame, or Arrow data.

    With `like`, whose `columns` they are, the table is a new one for a trained model: it may lack target and values.

    Raises ValueError that names the column for one that is missing, has no value, or has values of another kind than
    the rest; for two rows of the same series and time; for a context that changes within a series; and for a target
    that is constant. What is only doubtful is a warning in `summary`. Raises TypeError for what is no table and no
    `Columns`, and ImportError without pyarrow.
    """
    if not isinstance(columns, Columns):
        raise TypeError(f"columns: expected Columns, such as Columns(target='y'), got {shortened(columns)}")
    source = open_table(table, columns.names, _as_written(columns, like))
    _check_names(source, columns, like)
    if (tokens := tokens_of(source, columns)) is not None:
        return _read_texts(source, columns, tokens, like)
    warnings: list[str] = []
    steps, names, left_out = _order(source, columns, warnings)
    reader = Reader(source, columns, steps, names, warnings, checked=like is None)
    if like is None:
        target, target_per = reader.target()
    else:
        target, target_per = reader.target_per(like.target_per), like.target_per
    if target_per == "series" and columns.reads_itself:
        raise ValueError(
            f"inputs: expected no target of one value a series, which would give it away, got {columns.target}"
        )
    panel = Panel(
        columns=columns,
        steps=steps,
        inputs={name: reader.by_step(name) for name in columns.inputs if name != columns.target},
        context={name: reader.by_series(name) for name in columns.context},
        target=target,
        target_per=target_per,
        series=np.arange(len(names), dtype=np.int32),
        series_names=names,
        group=np.arange(len(names), dtype=np.int32),
        group_names=names,
        summary={},
    )
    if columns.group is not None:
        panel = _with_groups(panel, reader.groups())
    if like is None:
        warnings += leaks(panel.context, panel.inputs, target, target_per, steps, columns.target)
    return _with_summary(panel, reader, left_out)


def _read_texts(source: Source, columns: Columns, tokens: str, like: Encoding | None) -> Panel:
    """Each row is a sequence of tokens; those of one series count as one in splits and intervals."""
    target, steps, tokens, left_out = read_texts(source, columns, tokens)
    columns = replace(columns, inputs=(columns.target,), kinds={**columns.kinds, columns.target: tokens})
    rows = steps.rows[steps.offsets[:-1]]
    reader = Reader(source, columns, steps, rows.tolist(), [], checked=like is None)
    series, names = np.arange(len(rows), dtype=np.int32), (rows + 1).tolist()
    if columns.series is not None:
        codes, names = read_names(source, columns.series)
        if (without := int((codes[rows] < 0).sum())) > 0:
            raise ValueError(f"{columns.series}: expected a value in each row with a text, got none in {without}")
        series = codes[rows]
    context = {name: reader.whole(name, np.float64).take(rows) for name in columns.context}
    reader.kinds[columns.target] = tokens
    reader.described[columns.target] = {"kind": tokens, "missing": 0, "categories": len(target.categories)}
    of_series = series, names, np.arange(len(names), dtype=np.int32), names
    panel = Panel(columns, steps, {}, context, target, "step", *of_series, {})
    if columns.group is not None:
        groups = reader.whole_group().take(rows)
        of_group = np.full(len(names), -1, np.int32)
        of_group[series] = groups.codes
        if (of_group[series] != groups.codes).any():
            raise ValueError(f"{columns.group}: expected one value for each {columns.series}, got several")
        panel = _with_groups(panel, Category(of_group, groups.categories))
    return _with_summary(panel, reader, left_out)


def _as_written(columns: Columns, like: Encoding | None) -> dict[str, list[str] | None]:
    """The columns that are texts in a file that does not say so: names, and what was text in training."""
    codings = {} if like is None else {**like.inputs, **like.context, columns.target: like.target}
    texts = [name for name, coding in codings.items() if any(isinstance(each, str) for each in coding.categories)]
    return dict.fromkeys(texts) | {name: [""] for name in (columns.series, columns.group) if name is not None}


def _check_names(source: Source, columns: Columns, like: Encoding | None) -> None:
    missing = [name for name in columns.names if name not in source.types]
    if like is not None and not like.columns.reads_itself:
        missing = [name for name in missing if name != columns.target]
    if missing:
        received = listed(source.types) or "none"
        raise ValueError(f"columns: expected {listed(missing)} in the table, got only {received}")
    if not source.rows:
        raise ValueError("table: expected rows, got none")


def _order(source: Source, columns: Columns, warnings: list[str]) -> tuple[Steps, list[Any], dict[str, int]]:
    if columns.series is None:
        series, names = np.zeros(source.rows, np.int32), ["all rows"]
    else:
        series, names = read_names(source, columns.series)
    times = None if columns.time is None else read_times(source, columns.time)
    left_out: dict[str, int] = {}
    if without := int((series < 0).sum()):
        left_out[f"{columns.series} is missing"] = without
    if times is not None and (without := int((times.missing & (series >= 0)).sum())):
        left_out[f"{columns.time} is missing"] = without
    if sum(left_out.values()) == source.rows:
        raise ValueError(f"{columns.series or columns.time}: expected rows with a series and a time, got none")
    if times is not None:  # series without a time have no steps
        used = np.zeros(len(names), bool)
        used[series[(series >= 0) & ~times.missing]] = True
        if not used.all():
            renumbered = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
            series = np.where(series >= 0, renumbered[series], -1)
            warnings.append(f"series left out because none of their rows has a {columns.time}: {int((~used).sum())}")
            names = [name for name, use in zip(names, used, strict=True) if use]
    steps = in_order(series, times, names, columns.fill_gaps, (columns.series, columns.time))
    if not steps.was_sorted:
        warnings.append("rows were not in order of series and time: they have been sorted")
    if not steps.regular:
        warnings.append(f"{columns.time}: {steps.grid}: times give the order alone, and no gap is seen")
    return steps, names, left_out


def _with_groups(panel: Panel, groups: Column) -> Panel:
    assert isinstance(groups, Category)
    if without := int(groups.missing.sum()):
        raise ValueError(f"{panel.columns.group}: expected a group for every series, got none for {without}")
    return replace(panel, group=groups.codes, group_names=groups.categories)


def _with_summary(panel: Panel, reader: Reader, left_out: dict[str, int]) -> Panel:
    steps, columns, rows = panel.steps, panel.columns, reader.source.rows
    lengths = np.bincount(steps.series, np.diff(steps.offsets), len(panel.series)).astype(np.int64)
    missing = [f"rows left out because {reason}: {count}" for reason, count in left_out.items()]
    summary = {
        "table": reader.source.name,
        "rows": {"read": rows, "used": rows - sum(left_out.values()), "left out": left_out},
        "series": len(panel.series_names),
        "sequences": len(panel.series),
        "groups": len(panel.group_names),
        "pieces": len(steps.series),
        "steps": {
            "total": len(steps.rows),
            "filled": steps.filled,
            "shortest": int(lengths.min()),
            "median": float(np.median(lengths)),
            "longest": int(lengths.max()),
        },
        "time": {"column": columns.time, "step": steps.grid, "long gaps": steps.gaps},
        "target": {"column": columns.target, "per": panel.target_per, **reader.described.get(columns.target, {})},
        "columns": reader.described,
        "warnings": [*missing, *reader.warnings],
    }
    return replace(panel, columns=replace(columns, kinds={**columns.kinds, **reader.kinds}), summary=summary)

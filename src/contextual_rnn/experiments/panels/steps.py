"""The rows of a table in order: by series and time, duplicates refused, gaps filled or pieces begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.arrow import Array
from contextual_rnn.experiments.panels.times import Grid, Times, grid_of

MOST_FILLED = 100_000_000  # steps; each takes some tens of bytes
Names = tuple[str | None, str | None]


@dataclass(frozen=True)
class Steps:
    """Steps (n,) in the order of series and time, in pieces without a gap.

    `rows` is the row of the table that each step is, -1 for one that fills a gap. `offsets` (pieces + 1,) are where
    pieces begin, `series` (pieces,) which series each is of. `time` (n,) counts steps on a regular grid, and is the
    time itself otherwise. `grid` is its step in words, or why there is none; `regular` is False where times lie on no
    grid. `filled` counts the steps that fill gaps, `gaps` the gaps that were too long for it.
    """

    rows: Array
    offsets: Array
    series: Array
    time: Array
    grid: str
    regular: bool = True
    filled: int = 0
    gaps: int = 0
    was_sorted: bool = True


def in_order(series: Array, times: Times | None, names: Any, fill_gaps: int, columns: Names) -> Steps:
    """The steps of rows whose series is a code, -1 where missing; rows without series or time are left out.

    `names` are the series' names, `columns` those of the columns series and time, None where there is none. Raises
    ValueError for two rows of one series and time, and for gaps of more than `MOST_FILLED` steps to fill.
    """
    valid = series >= 0 if times is None else (series >= 0) & ~times.missing
    rows = np.flatnonzero(valid)
    codes = series[rows]
    values = np.arange(len(rows)) if times is None else times.values[rows]
    step = codes[1:].astype(np.int64) - codes[:-1]
    was_sorted = not ((step < 0) | ((step == 0) & (values[1:] < values[:-1]))).any()
    if not was_sorted:
        order = np.lexsort((values, codes))
        rows, codes, values = rows[order], codes[order], values[order]
    new = np.ones(len(rows), bool)
    new[1:] = codes[1:] != codes[:-1]
    if times is not None:
        _check_duplicates(rows, codes, values, new, times, names, columns)
    grid = Grid(None, "the order of the rows") if times is None else grid_of(values, new, times.dates)
    if grid.index is None:
        offsets = np.append(np.flatnonzero(new), len(rows))
        series = codes[offsets[:-1]]
        return Steps(rows, offsets, series, values, grid.step, regular=times is None, was_sorted=was_sorted)
    return _with_gaps(rows, codes, grid.index, new, fill_gaps, grid.step, was_sorted)


def _check_duplicates(
    rows: Array, codes: Array, values: Array, new: Array, times: Times, names: Any, columns: Names
) -> None:
    same = ~new[1:] & (values[1:] == values[:-1])
    if not same.any():
        return
    place = int(same.argmax())
    first, second = sorted((int(rows[place]), int(rows[place + 1])))
    series, time = columns
    hint = " (local times repeat an hour in autumn: give them their zone)" if times.dates else ""
    if series is None:
        series, hint = "series", f"{hint}; a table of several series needs the name of the column that says which"
    raise ValueError(
        f"{time}: expected one row for each {series} and {time}, got {int(same.sum())} more, the first in rows "
        f"{first + 1} and {second + 1}: {names[codes[place]]} at {times.show(first)}{hint}"
    )


def _with_gaps(
    rows: Array, codes: Array, index: Array, new: Array, fill_gaps: int, step: str, was_sorted: bool
) -> Steps:
    advance = np.ones(len(rows), np.int64)
    advance[1:] = index[1:] - index[:-1]
    gap = ~new & (advance > 1)
    begins = new | (gap & (advance - 1 > fill_gaps))
    advance[begins] = 1
    place = np.cumsum(advance) - 1
    steps = int(place[-1]) + 1 if len(place) else 0
    if steps - len(rows) > MOST_FILLED:
        raise ValueError(
            f"fill_gaps: expected gaps of at most {MOST_FILLED:,} steps in all, got {steps - len(rows):,} where those "
            f"of up to {fill_gaps:,} are filled"
        )
    gaps = int((gap & begins).sum())
    offsets = np.append(place[begins], steps)
    if steps == len(rows):
        return Steps(rows, offsets, codes[begins], index, step, gaps=gaps, was_sorted=was_sorted)
    filled = np.full(steps, -1, rows.dtype)
    filled[place] = rows
    lengths = np.diff(offsets)
    time = np.arange(steps) - np.repeat(offsets[:-1] - index[begins], lengths)
    return Steps(filled, offsets, codes[begins], time, step, True, steps - len(rows), gaps, was_sorted)

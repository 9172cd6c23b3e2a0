"""Times of rows as numbers, and the regular grid that they may lie on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.source import Source, compute, is_number_type, is_text, readable

Array = np.ndarray[Any, np.dtype[Any]]
REGULAR = 0.5  # the share of neighbours that must be one step apart
DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Times:
    """A number for each row, (n,), and whether it is missing. Of dates it is microseconds since 1970."""

    values: Array
    missing: Array
    dates: bool

    def show(self, row: int) -> str:
        """The time of a row, as a person writes it."""
        value = self.values[row]
        return str(np.datetime64(int(value), "us")) if self.dates else str(value.item())


@dataclass(frozen=True)
class Grid:
    """`index` counts the steps of each row, (n,), where times are regular; it is None where they only give an order."""

    index: Array | None
    step: str


def read_times(source: Source, name: str) -> Times:
    """Times of a column of dates, times with or without a zone, or numbers.

    Times with a zone are instants; where they are days apart they count as the days of that zone, whose lengths
    differ. Raises ValueError for text that is no date, and other types.
    """
    with readable(name):
        return _read_times(source, name)


def _read_times(source: Source, name: str) -> Times:
    import pyarrow as pa

    kind = source.types[name]
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    numbers = is_number_type(kind)
    dates = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    text = is_text(kind)
    if not (numbers or dates or text):
        raise ValueError(f"{name}: expected dates, times or numbers, got {kind}")
    values = np.empty(source.rows, np.int64 if dates or text or pa.types.is_integer(kind) else np.float64)
    missing = np.zeros(source.rows, bool)
    row = 0
    for chunk in source.read(name):
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.cast(chunk.type.value_type)
        rows = slice(row, row + len(chunk))
        missing[rows] = chunk.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        chunk = _as_numbers(name, chunk, row)
        values[rows] = chunk.fill_null(0).to_numpy(zero_copy_only=False)
        row += len(chunk)
    if (infinite := np.isinf(values)).any():
        raise ValueError(f"{name}: expected finite times, got {values[infinite][0]} in row {infinite.argmax() + 1}")
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    times = Times(values, missing, dates or text)
    return _local(times, zone) if zone not in (None, "UTC") and _whole_days(times, zone) else times


def _as_numbers(name: str, chunk: Any, row: int) -> Any:
    import pyarrow as pa

    if is_text(chunk.type):
        try:
            chunk = chunk.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:
            try:
                chunk = chunk.cast(pa.timestamp("us", "UTC"))
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"{name}: expected dates such as 2020-12-31 or 2020-12-31T23:59, got {error}"
                ) from None
    if pa.types.is_date(chunk.type) or pa.types.is_timestamp(chunk.type):
        zone = chunk.type.tz if pa.types.is_timestamp(chunk.type) else None
        try:
            return chunk.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise ValueError(f"{name}: expected dates that fit 64 bits, got {error}") from None
    if pa.types.is_integer(chunk.type):
        return chunk.cast(pa.int64())
    return chunk.cast(pa.float64(), safe=False)


def _local_values(values: Array, zone: str) -> Array:
    import pyarrow as pa

    local = compute("local_timestamp", pa.array(values).cast(pa.timestamp("us", zone)))
    return local.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _local(times: Times, zone: str) -> Times:
    return Times(_local_values(times.values, zone), times.missing, times.dates)


def _whole_days(times: Times, zone: str) -> bool:
    """Whether the rows stand at one time of the day of their zone."""
    values = times.values[~times.missing]
    if not len(values):
        return False
    local = _local_values(values[:: max(len(values) // 1000, 1)], zone)
    return len(np.unique(local % DAY)) == 1


def grid_of(times: Array, new: Array, dates: bool) -> Grid:
    """The grid of sorted times, of which `new` marks the first of each series.

    The step is the most frequent distance between neighbours: days, days without weekends, months where each is the
    same day of the month, or any other distance.
    """
    inner = ~new[1:]
    if not inner.any():
        return Grid(None, "one row a series")
    if dates and (index := _months(times)) is not None:
        grid = _regular(index, inner, lambda step: _in_words(step, "month"))
        if grid.index is not None:
            return grid
    if dates and (index := _working_days(times, inner)) is not None:
        return Grid(index, "1 day, without weekends")
    return _regular(times, inner, _duration if dates else lambda step: f"{step:g}")


def _regular(times: Array, inner: Array, words: Any) -> Grid:
    distance = (times[1:] - times[:-1])[inner]
    steps, counts = np.unique(distance[:: max(len(distance) // 1_000_000, 1)], return_counts=True)
    step = steps[counts.argmax()]
    whole = np.round(distance / step)
    if (np.abs(distance / step - whole) > 1e-3).any() or (whole == 1).mean() < REGULAR:
        return Grid(None, f"irregular, most often {words(step)}")
    index = np.zeros(len(times), np.int64)
    steps_on = np.zeros(len(times) - 1, np.int64)
    steps_on[inner] = whole.astype(np.int64)
    np.cumsum(steps_on, out=index[1:])
    return Grid(index, words(step))


def _months(times: Array) -> Array | None:
    """The month of each time, where all are the same day and time of their month, or its last day."""
    for shift in (0, DAY):  # the last day of a month is the day before the first
        shifted = (times + shift).astype("datetime64[us]")
        months = shifted.astype("datetime64[M]")
        if len(np.unique((shifted - months)[:1000])) == 1 and len(np.unique(shifted - months)) == 1:
            return months.astype(np.int64)
    return None


def _working_days(times: Array, inner: Array) -> Array | None:
    """The number of each working day, where the rows are days apart and none is on a weekend."""
    if ((times[1:] - times[:-1])[inner] % DAY).any() or len(np.unique(times[:1000] % DAY)) > 1:
        return None
    monday_based = times // DAY + 3  # 1970 began on a Thursday
    week, weekday = monday_based // 7, monday_based % 7
    if (weekday >= 5).any() or len(np.unique(weekday)) < 5:
        return None
    return week * 5 + weekday


def _duration(step: float) -> str:
    seconds = step / 1e6
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            return _in_words(seconds / size, unit)
    return f"{seconds:g} seconds"


def _in_words(number: float, unit: str) -> str:
    if unit == "month" and number % 12 == 0:
        number, unit = number / 12, "year"
    return f"{number:g} {unit}{'' if number == 1 else 's'}"

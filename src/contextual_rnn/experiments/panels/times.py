"""Times of rows as numbers, and the regular grid that they may lie on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from contextual_rnn.experiments.panels.arrow import (
    Array,
    compute,
    decoded,
    first_unread,
    is_date_type,
    is_number_type,
    is_text,
    readable,
    value_type,
)
from contextual_rnn.experiments.panels.source import Source

REGULAR = 0.5  # the share of neighbours that must be one step apart
TEXT_TIMES = None, "UTC"  # the zones that texts are read with
DAY = 86_400_000_000  # microseconds
COUNTED = 2**62  # steps


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

    kind = value_type(source.types[name])
    numbers = is_number_type(kind)
    dates, text = is_date_type(kind), is_text(kind)
    if not (numbers or dates or text):
        raise ValueError(f"{name}: expected dates, times or numbers, got {kind}")
    values = np.empty(source.rows, np.int64 if dates or text or pa.types.is_integer(kind) else np.float64)
    missing = np.zeros(source.rows, bool)
    row, zoned = 0, set[bool]()
    for chunk in source.read(name):
        chunk = decoded(chunk)
        rows = slice(row, row + len(chunk))
        missing[rows] = chunk.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        if text and chunk.null_count < len(chunk):
            chunk = _from_texts(name, chunk, row)
            zoned.add(chunk.type.tz is not None)
        chunk = _as_numbers(name, chunk)
        values[rows] = chunk.fill_null(0).to_numpy(zero_copy_only=False)
        row += len(chunk)
    if len(zoned) > 1:
        raise _mixed_zones(name)
    if (infinite := np.isinf(values)).any():
        raise ValueError(f"{name}: expected finite times, got {values[infinite][0]} in row {infinite.argmax() + 1}")
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    if zone not in (None, "UTC") and _whole_days(values[~missing], zone):
        values = _local_values(values, zone)
    return Times(values, missing, dates or text)


def _as_numbers(name: str, chunk: Any) -> Any:
    import pyarrow as pa

    if is_text(chunk.type):  # all of them missing
        chunk = chunk.cast(pa.timestamp("us"))
    if is_date_type(chunk.type):
        zone = chunk.type.tz if pa.types.is_timestamp(chunk.type) else None
        try:
            return chunk.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise ValueError(f"{name}: expected dates that fit 64 bits, got {error}") from None
    if pa.types.is_integer(chunk.type):
        return chunk.cast(pa.int64())
    return chunk.cast(pa.float64(), safe=False)


def _from_texts(name: str, chunk: Any, row: int) -> Any:
    """Timestamps of texts, with a zone (UTC) or without; ValueError with the first text that is neither."""
    import pyarrow as pa

    for zone in TEXT_TIMES:
        try:
            return chunk.cast(pa.timestamp("us", zone))
        except pa.ArrowInvalid:
            pass
    place = first_unread(chunk, [pa.timestamp("us", zone) for zone in TEXT_TIMES])
    if place is None:
        raise _mixed_zones(name)
    text = chunk[place].as_py()
    raise ValueError(
        f"{name}: expected dates such as 2020-12-31 or 2020-12-31T23:59, got {text!r} in row {row + place + 1}"
    )


def _mixed_zones(name: str) -> ValueError:
    return ValueError(f"{name}: expected times that all have a zone or all have none, got some of each")


def _local_values(values: Array, zone: str) -> Array:
    import pyarrow as pa

    local = compute("local_timestamp", pa.array(values).cast(pa.timestamp("us", zone)))
    return local.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _whole_days(values: Array, zone: str) -> bool:
    """Whether the rows stand at one time of the day of their zone."""
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
    with np.errstate(over="ignore"):
        distance = (times[1:] - times[:-1])[inner]
    if not ((distance > 0) & np.isfinite(distance)).all():  # beyond the range of its type
        return Grid(None, "further apart than can be counted")
    steps, counts = np.unique(distance[:: max(len(distance) // 1_000_000, 1)], return_counts=True)
    step = steps[counts.argmax()]
    whole = np.round(distance / step)
    if (np.abs(distance / step - whole) > 1e-3).any() or (whole == 1).mean() < REGULAR:
        return Grid(None, f"irregular, most often {words(step)}")
    # A series counts on from the step of its first time, so that the same time is the same step in all of them.
    first = np.append(0, np.flatnonzero(~inner) + 1)
    begin = np.round(times[first].astype(np.float64) / step - float(times.min()) / step)
    if begin.max() / COUNTED + (whole / COUNTED).sum() >= 1:
        return Grid(None, f"further apart than can be counted, most often {words(step)}")
    index = np.zeros(len(times), np.int64)
    index[1:][inner] = whole.astype(np.int64)
    np.cumsum(index, out=index)
    index += np.repeat(begin.astype(np.int64) - index[first], np.diff(np.append(first, len(times))))
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

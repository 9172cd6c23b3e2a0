"""A column of any type of Arrow in any role is read, or refused in words of our own that name it."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contextual_rnn import ContextNet
from contextual_rnn.experiments.panels import Columns, Encoding, Split, prepare, prepare_new, read_panel

SERIES, STEPS = 8, 6
ROWS = SERIES * STEPS
ROLES = {"series": "s", "time": "t", "target": "y", "input": "x", "context": "c"}
OURS = re.compile(r"(s|t|y|x|c|columns|table|time|split|series): ")


def values_of(size: int) -> dict[str, pa.Array]:
    """Columns of every type of Arrow, with missing values and values at the end of their range."""
    generator = np.random.default_rng(0)
    small, floats = generator.integers(0, 4, size), generator.normal(size=size)
    words = [f"w{number}" for number in small]
    days = np.datetime64("2020-01-01") + np.arange(size)
    hours = pa.array((np.datetime64("2020-01-01T00") + generator.permutation(size)).astype("datetime64[us]"))
    lists: list[Any] = [["a", "b"][:number] for number in generator.integers(0, 3, size)]
    return {
        "int8": pa.array(small, pa.int8()),
        "uint64": pa.array(generator.integers(0, 2**63, size).astype(np.uint64) * 2),
        "float16": pa.array(floats.astype(np.float16)),
        "NaN": pa.array(np.where(floats > 0.5, np.nan, floats)),
        "infinity": pa.array(np.where(floats > 0.5, np.inf, floats)),
        "decimal": pa.array([Decimal(int(number)) / 10 for number in small], pa.decimal128(9, 2)),
        "wide decimal": pa.array([Decimal(int(number)) / 10 for number in small], pa.decimal256(50, 2)),
        "boolean": pa.array(floats > 0),
        "null": pa.nulls(size),
        "missing floats": pa.nulls(size, pa.float64()),
        "missing texts": pa.nulls(size, pa.string()),
        "missing lists": pa.nulls(size, pa.list_(pa.string())),
        "texts": pa.array(words),
        "empty texts": pa.array([""] * size),
        "number texts": pa.array([str(number) for number in small]),
        "mixed texts": pa.array([str(number) if number else "x" for number in small]),
        "large texts": pa.array(words, pa.large_string()),
        "text views": pa.array(words, pa.string_view()),
        "dictionary": pa.array(words).dictionary_encode(),
        "dictionary of numbers": pa.array(small).dictionary_encode(),
        "dictionary of lists": pa.DictionaryArray.from_arrays(pa.array(small % 2, pa.int8()), pa.array([["a"], ["b"]])),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([size], pa.int32()), pa.array(["a"])),
        "bytes": pa.array([b"a", b"\xff"] * (size // 2)),
        "fixed bytes": pa.array([bytes(16)] * size, pa.binary(16)),
        "dates": pa.array(days),
        "dates of 64 bits": pa.array(days).cast(pa.date64()),
        "times": hours,
        "times with a zone": hours.cast(pa.timestamp("us", "America/New_York")),
        "times with an offset": hours.cast(pa.timestamp("us", "+05:30")),
        "times with an unknown zone": hours.cast(pa.timestamp("us", "Nowhere/City")),
        "times with holes": pa.array(
            [None if place % 5 == 0 else time for place, time in enumerate(hours.to_pylist())]
        ),
        "far times": pa.array([0, 2**62] * (size // 2)).cast(pa.timestamp("s")),
        "text dates": pa.array([str(day) for day in days]),
        "American dates": pa.array([f"{day % 12 + 1}/{day % 28 + 1}/2020" for day in range(size)]),
        "times of day": pa.array([datetime.time(place % 24) for place in range(size)], pa.time32("s")),
        "durations": pa.array([datetime.timedelta(hours=place) for place in range(size)]),
        "lists": pa.array(lists),
        "large lists": pa.array(lists, pa.large_list(pa.string())),
        "fixed lists": pa.array([["a", "b"]] * size, pa.list_(pa.string(), 2)),
        "lists of numbers": pa.array([[1, 2, None][:number] for number in small]),
        "lists of lists": pa.array([[["a"]]] * size),
        "lists of structs": pa.array([[{"a": 1}]] * size),
        "empty lists": pa.array([[]] * size, pa.list_(pa.string())),
        "structs": pa.array([{"a": 1}] * size),
        "maps": pa.array([[("a", 1)]] * size, pa.map_(pa.string(), pa.int32())),
    }


VALUES, OF_SERIES = values_of(ROWS), values_of(SERIES)


def column(role: str, name: str) -> pa.Array:
    if role != "context" or name in ("runs", "text views"):  # which Arrow cannot repeat
        return VALUES[name]
    return OF_SERIES[name].take(pa.array(np.repeat(np.arange(SERIES), STEPS)))


def check(table: pa.Table, columns: Columns) -> None:
    panel = read_panel(table, columns)
    data = prepare(panel, Split(seed=1), length=3)
    for summary in (panel.summary, data.summary):
        assert summary["rows"]["read"] == summary["rows"]["used"] + sum(summary["rows"]["left out"].values())
    assert data.describe()
    encoding = Encoding.from_json(data.encoding.to_json())
    assert encoding == data.encoding
    for batch in (data.batch(data.train), data.batch(data.test), (new := prepare_new(table, encoding)).batch(new.test)):
        assert batch.inputs.isfinite().all()
        assert batch.target.isfinite().all()
        assert batch.window is None or batch.window.isfinite().all()
        assert batch.context is None or ContextNet(data.context)(batch.context).isfinite().all()


@pytest.mark.parametrize("role", ROLES)
def test_any_type_in_any_role_is_read_or_refused_by_name(role):
    floats = np.random.default_rng(1).normal(size=(2, ROWS))
    plain = {
        "s": np.repeat(np.arange(SERIES), STEPS),
        "t": np.tile(np.arange(STEPS), SERIES),
        "y": floats[0],
        "x": floats[1],
        "c": np.repeat(floats[0, :SERIES], STEPS),
    }
    kinds = {"target": ["quantity", "category", "bytes"], "input": ["quantity", "category", "set", "set:;"]}
    read = set()
    for name in VALUES:
        table = pa.table({**plain, ROLES[role]: column(role, name)})
        for kind in (None, *kinds.get(role, kinds["input"] if role == "context" else [])):
            asked = {} if kind is None else {ROLES[role]: kind}
            columns = Columns("y", "s", "t", ("x",), ("c",), 1, kinds=asked)
            if role == "series":
                columns = Columns("y", "s", inputs=("x",))
            if kind == "bytes":
                columns = Columns("y", "s", kinds=asked)
            try:
                check(table, columns)
                read.add(name)
            except (ValueError, TypeError) as error:
                if not OURS.match(str(error)) or type(error) not in (ValueError, TypeError):
                    raise AssertionError(f"{name} as {role}, {kind}") from error
    likely = {"series": "texts", "time": "times of day", "target": "NaN", "input": "lists", "context": "empty lists"}
    assert (likely[role] in read) == (role != "time")

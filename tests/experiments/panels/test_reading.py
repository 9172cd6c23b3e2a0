"""Tables are read whole or refused by name: kinds, order, gaps, zones, counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.experiments.panels.tables import COLUMNS, SERIES, STEPS, flows

from contextual_rnn.experiments.panels import Columns, read_panel


def hours(zone: str | None, first: str, count: int, step: int = 1) -> pa.Array:
    times = np.datetime64(first) + np.arange(count) * np.timedelta64(step, "h")
    return pa.array(times.astype("datetime64[us]")).cast(pa.timestamp("us", zone))


def one_series(time: pa.Array, **columns) -> pa.Table:
    return pa.table({"time": time, "y": np.random.default_rng(0).normal(size=len(time)), **columns})


ONE = Columns(target="y", time="time")


def test_every_kind_is_recognised_and_counted():
    panel = read_panel(flows(), COLUMNS)
    assert dict(panel.columns.kinds) == {
        "rain": "quantity",
        "weather": "category",
        "soil": "category",
        "area": "quantity",
        "uses": "set",
        "discharge": "quantity",
    }
    summary = panel.summary
    assert summary["rows"] == {"read": SERIES * STEPS, "used": SERIES * STEPS, "left out": {}}
    assert (summary["series"], summary["pieces"], summary["time"]["step"]) == (SERIES, SERIES, "1 day")
    assert summary["target"]["per"] == "step"
    assert summary["warnings"] == []


def test_order_of_rows_changes_nothing_but_a_warning():
    order = np.random.default_rng(1).permutation(SERIES * STEPS)
    table = flows()
    shuffled = read_panel(table.take(pa.array(order)), COLUMNS)
    assert any("sorted" in warning for warning in shuffled.summary["warnings"])
    first = {name: place for place, name in enumerate(read_panel(table, COLUMNS).series_names)}
    values = table["rain"].to_numpy().reshape(SERIES, STEPS).astype(np.float32)
    for piece, series in enumerate(shuffled.steps.series):
        steps = slice(*shuffled.steps.offsets[piece : piece + 2])
        assert (shuffled.inputs["rain"].values[steps] == values[first[shuffled.series_names[series]]]).all()


def test_short_gaps_are_filled_and_long_ones_begin_a_piece():
    present = np.array([0, 1, 2, 4, 5, 10, 11, 12])  # one step is missing, then four
    table = one_series(pa.array(np.datetime64("2021-01-01") + present))
    panel = read_panel(table, replace(ONE, fill_gaps=2))
    assert panel.steps.offsets.tolist() == [0, 6, 9]
    assert panel.steps.rows.tolist() == [0, 1, 2, -1, 3, 4, 5, 6, 7]
    assert (panel.steps.time - panel.steps.time[0]).tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12]
    assert (panel.summary["steps"]["filled"], panel.summary["time"]["long gaps"]) == (1, 1)
    assert np.flatnonzero(panel.target.missing).tolist() == [3]
    assert read_panel(table, ONE).summary["steps"]["filled"] == 5
    pieces = [read_panel(table, replace(ONE, fill_gaps=gap)).summary["pieces"] for gap in range(5)]
    assert pieces == [3, 2, 2, 2, 1]


def test_gaps_of_too_many_steps_are_refused():
    table = one_series(pa.array([0, 1, 2, 10**13, 10**13 + 1]))
    with pytest.raises(ValueError, match="fill_gaps: expected gaps of at most 100,000,000 steps in all, got 9,999,99"):
        read_panel(table, replace(ONE, fill_gaps=10**13))
    assert read_panel(table, ONE).summary["pieces"] == 2


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (np.arange("2020-01", "2021-06", dtype="datetime64[M]").astype("datetime64[D]"), "1 month"),
        (np.arange("2020-02", "2021-07", dtype="datetime64[M]").astype("datetime64[D]") - 1, "1 month"),
        (np.arange("1990", "2010", dtype="datetime64[Y]").astype("datetime64[D]"), "1 year"),
        (np.arange("2020-01", "2024-01", 3, dtype="datetime64[M]").astype("datetime64[D]"), "3 months"),
        (
            np.array([d for d in np.arange("2020-01-01", "2020-03-01", dtype="datetime64[D]") if np.is_busday(d)]),
            "weekends",
        ),
        (np.arange(0, 200, 10), "10"),
        (np.arange(20) * 0.25, "0.25"),
    ],
)
def test_calendars_have_no_gaps(times, step):
    panel = read_panel(one_series(pa.array(times)), ONE)
    assert step in panel.summary["time"]["step"]
    assert (panel.summary["pieces"], panel.summary["steps"]["filled"], panel.summary["warnings"]) == (1, 0, [])


def test_irregular_times_give_the_order_and_a_warning():
    times = np.sort(np.random.default_rng(0).uniform(size=30))
    panel = read_panel(one_series(pa.array(times)), ONE)
    assert panel.summary["pieces"] == 1
    assert any("irregular" in warning for warning in panel.summary["warnings"])


def test_days_of_a_zone_are_regular_over_summer_time_and_its_hours_are_too():
    local = np.datetime64("2021-03-20") + np.arange(20) * np.timedelta64(1, "D")
    days = pa.array(local.astype("datetime64[us]")).cast(pa.timestamp("us"))
    days = pa.compute.assume_timezone(days, "Europe/Berlin")
    times = {"1 day": [days], "1 hour": [hours("Europe/Berlin", f"2021-{day}T20", 20) for day in ("03-27", "10-30")]}
    for step, columns in times.items():
        for time in columns:
            summary = read_panel(one_series(time), ONE).summary
            assert (summary["time"]["step"], summary["pieces"], summary["steps"]["filled"]) == (step, 1, 0)
            assert summary["warnings"] == []


def test_local_times_that_repeat_in_autumn_are_refused_with_a_hint():
    local = hours("Europe/Berlin", "2021-10-30T20", 20)
    table = one_series(pa.compute.local_timestamp(local))
    with pytest.raises(ValueError, match=r"time: expected one row for each .*in rows 5 and 6: .*zone.*several series"):
        read_panel(table, ONE)


def test_text_dates_are_read():
    days = [str(np.datetime64("2021-01-01") + day) for day in range(20)]
    assert read_panel(one_series(pa.array(days)), ONE).summary["time"]["step"] == "1 day"
    zoned = [f"{day}T00:00:00Z" for day in days]
    assert read_panel(one_series(pa.array(zoned)), ONE).summary["time"]["step"] == "1 day"


def test_rows_without_series_or_time_are_counted():
    basin = flows()["basin"].to_pylist()
    basin[0] = basin[1] = None
    days = flows()["day"].to_pylist()
    days[5] = days[0] = None
    panel = read_panel(flows(basin=basin, day=days), COLUMNS)
    rows = panel.summary["rows"]
    assert rows["left out"] == {"basin is missing": 2, "day is missing": 1}
    assert rows["read"] == rows["used"] + sum(rows["left out"].values())
    assert (panel.steps.rows >= 0).sum() == rows["used"]


def test_a_series_without_any_time_is_left_out_with_its_name():
    days = [None] * STEPS + flows()["day"].to_pylist()[STEPS:]
    panel = read_panel(flows(day=days), COLUMNS)
    assert len(panel.series_names) == SERIES - 1
    assert "basin 0" not in panel.series_names
    assert panel.context["area"].values.tolist() == [[1.5, 3.25, 2.0, 7.5][series % 4] for series in range(1, SERIES)]


def test_one_value_a_series_is_recognised_for_classes_and_numbers():
    words = np.repeat(["a", "b"] * (SERIES // 2), STEPS).tolist()
    panel = read_panel(flows(discharge=words), COLUMNS)
    assert (panel.target_per, panel.columns.kinds["discharge"]) == ("series", "category")
    assert [panel.target.categories[code] for code in panel.target.codes] == ["a", "b"] * (SERIES // 2)
    numbers = read_panel(flows(discharge=np.repeat(np.arange(SERIES) + 0.5, STEPS)), COLUMNS)
    assert (numbers.target_per, numbers.columns.kinds["discharge"]) == ("series", "quantity")
    assert numbers.target.values.tolist() == [series + 0.5 for series in range(SERIES)]


def test_kinds_that_the_user_says_win():
    kinds = {"area": "category", "weather": "set:a", "discharge": "category"}
    table = flows(discharge=np.random.default_rng(0).integers(3, size=SERIES * STEPS))
    panel = read_panel(table, replace(COLUMNS, kinds=kinds))
    assert panel.context["area"].categories == [1.5, 3.25, 2.0, 7.5]
    assert sorted(panel.inputs["weather"].categories) == ["fog", "h", "il", "sun"]
    assert panel.target.kind == "category"


def test_missing_values_are_kept_as_missing():
    rain = flows()["rain"].to_pylist()
    rain[3] = None
    area = [None] * STEPS + flows()["area"].to_pylist()[STEPS:]
    uses = [None] * STEPS + flows()["uses"].to_pylist()[STEPS:]
    panel = read_panel(flows(rain=rain, area=area, uses=uses), COLUMNS)
    assert np.flatnonzero(panel.inputs["rain"].missing).tolist() == [3]
    for name in ("area", "uses"):
        assert np.flatnonzero(panel.context[name].missing).tolist() == [0]
    assert panel.summary["columns"]["rain"]["missing"] == 1


def changed(name: str, row: int, value) -> pa.Table:
    values = flows()[name].to_pylist()
    values[row] = value
    return flows(**{name: values})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (flows(rain=None), "columns: expected rain in the table, got only basin, day"),
        (
            changed("day", 1, np.datetime64("2020-02-25").item()),
            "day: expected one row .* 1 more, .* rows 1 and 2: basin 0",
        ),
        (changed("soil", 5, "peat"), "soil: expected one value for each basin, got several for basin 0.*inputs"),
        (changed("uses", 5, ["mine"]), "uses: expected one value for each basin, got several for basin 0"),
        (flows(discharge=[2.5] * SERIES * STEPS), "discharge: expected a target that varies"),
        (flows(discharge=[None] * SERIES * STEPS), "discharge: expected at least one value, got 120 missing"),
        (flows(rain=pa.nulls(120, pa.float64())), "rain: expected at least one value, got 120 missing"),
        (flows(discharge=[float("inf"), *range(119)]), "discharge: expected finite numbers .*got inf in row 1"),
        (
            flows(discharge=[*range(119), 1e300]),
            "discharge: expected finite numbers that float32 can hold, got 1e.300 in",
        ),
        (flows(day=[*range(119), float("inf")]), "day: expected finite times, got inf in row 120"),
        (flows(day=pa.array([2**64 - 1] * 120, pa.uint64())), "day: expected values that Arrow can read"),
        (flows(rain=[*map(str, range(119)), "1_000"]), "rain: expected numbers.* got '1_000' in row 120"),
        (flows(rain=[*map(str, range(119)), "n.a."]), "rain: expected numbers.* got 'n.a.' in row 120.*kinds"),
        (flows(area=[{"a": 1}] * 120), "area: expected numbers, texts or lists"),
        (flows(day=["yesterday"] * 120), "day: expected dates such as 2020-12-31"),
        (flows(day=[True] * 120), "day: expected dates, times or numbers, got bool"),
        (flows().slice(0, 0), "table: expected rows, got none"),
        (flows(basin=pa.nulls(120, pa.string())), "basin: expected rows with a series and a time, got none"),
        (flows(discharge=[["a"], ["b"]] * 60), "discharge: expected a target of numbers or categories, got sets"),
    ],
)
def test_flaws_are_refused_by_name(table, message):
    with pytest.raises(ValueError, match=message):
        read_panel(table, COLUMNS)


def test_texts_that_are_no_numbers_are_refused_where_numbers_are_asked_for():
    with pytest.raises(ValueError, match=r"weather: expected numbers, got '\w+' in row 1"):
        read_panel(flows(), replace(COLUMNS, kinds={"weather": "quantity"}))
    with pytest.raises(ValueError, match="weather: expected numbers, got '1_000' in row 2"):
        read_panel(flows(weather=["1", "1_000"] * 60), replace(COLUMNS, kinds={"weather": "quantity"}))
    numbers = flows(weather=[f" {row}" for row in range(120)])
    panel = read_panel(numbers, replace(COLUMNS, kinds={"weather": "quantity"}))
    assert panel.inputs["weather"].values.tolist() == list(range(120))
    warnings = read_panel(numbers, COLUMNS).summary["warnings"]
    assert any("texts are all numbers" in warning for warning in warnings)


def test_doubtful_kinds_are_warnings():
    panel = read_panel(flows(area=np.repeat(np.arange(SERIES) % 3, STEPS)), COLUMNS)
    assert [
        warning for warning in panel.summary["warnings"] if warning.startswith("area: its 3 different whole numbers")
    ]


def test_dictionaries_with_doubled_unused_and_missing_values_are_read():
    # Arrow's files and filters leave such dictionaries behind.
    words = pa.array(["unused", "a", "b", "a", None])
    codes = pa.array([1, 2, 3, 4, None, 2] * 20, pa.int32())
    table = flows().set_column(3, "weather", pa.DictionaryArray.from_arrays(codes, words))
    weather = read_panel(table, COLUMNS).inputs["weather"]
    assert weather.categories == ["a", "b"]
    assert weather.codes.tolist() == [0, 1, 0, -1, -1, 1] * 20


def test_ten_thousand_categories_are_read():
    rows = 10_000
    table = pa.table(
        {"series": np.arange(rows) // 2, "y": np.arange(rows) % 7 * 1.0, "code": [f"c{i}" for i in range(rows)]}
    )
    panel = read_panel(table, Columns(target="y", series="series", inputs=("code",)))
    assert len(panel.inputs["code"].categories) == rows


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": 3}, TypeError, "target: expected the name"),
        ({"inputs": "rain"}, TypeError, "inputs: expected a list of names"),
        ({"inputs": ["rain", "rain"]}, ValueError, "inputs: expected each column once"),
        ({"context": ["y"]}, ValueError, "context: expected columns known before the start"),
        ({"inputs": ["a"], "context": ["a"]}, ValueError, "context: expected columns that are no inputs"),
        ({"series": "y"}, ValueError, "series: expected another column than target"),
        ({"time": "t", "inputs": ["t"]}, ValueError, "inputs: expected columns of values"),
        ({"window": -1}, ValueError, "window: expected an int"),
        ({"kinds": {"z": "set"}}, ValueError, "kinds: expected columns among"),
        ({"kinds": {"y": "set"}}, ValueError, "kinds: expected one of .*bytes"),
        ({"inputs": ["a"], "kinds": {"a": "number"}}, ValueError, "kinds: expected one of quantity, category, set"),
        ({"kinds": [1]}, TypeError, "kinds: expected a dict"),
    ],
)
def test_columns_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        Columns(**{"target": "y", **arguments})

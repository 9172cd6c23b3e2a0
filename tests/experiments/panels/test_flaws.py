"""Flaws of tables that were once read as something else: times, numbers as texts, parts of other types, frames."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.experiments.panels.tables import COLUMNS, SERIES, STEPS, flows

from contextual_rnn.experiments.panels import Columns, Encoding, Split, prepare, prepare_new, read_panel

ROWS = SERIES * STEPS
NUMBERS = np.random.default_rng(1).normal(size=ROWS)
PLAIN = Columns("discharge", "basin", "day", ("rain",), ("area",), 1)
HOURS = (np.datetime64("2021-01-01T00") + np.tile(np.arange(STEPS), SERIES)).astype("datetime64[us]")


def warnings_of(table, columns=COLUMNS) -> list[str]:
    return read_panel(table, columns).summary["warnings"]


def written(folder, text: str):
    path = folder / "table.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "times", [np.arange(STEPS), np.datetime64("2020-02-25") + np.arange(STEPS), 0.25 * np.arange(STEPS)]
)
def test_a_calendar_split_cuts_all_series_at_the_same_times(times):
    """Series that begin one after the other."""
    step = times[1] - times[0]
    days = np.concatenate([times + 2 * series * step for series in range(SERIES)])
    panel = read_panel(flows(day=days), replace(PLAIN, window=0))
    data = prepare(panel, Split("time", calendar=True))
    ends = []
    for part in ("train", "validation", "test"):
        rows = data.table_rows(getattr(data, part))
        ends += [days[rows[rows >= 0]].min(), days[rows[rows >= 0]].max()]
    assert ends[1] < ends[2] <= ends[3] < ends[4]


@pytest.mark.parametrize("times", [[-(2**63), -1, 0, 1, 2, 2**63 - 1], [-1e308, -1.0, 0.0, 1.0, 2.0, 1e308]])
def test_times_too_far_apart_to_count_give_the_order_alone(times):
    table = flows(
        day=np.tile(np.array(times), ROWS // len(times)), basin=np.repeat(np.arange(ROWS // len(times)), len(times))
    )
    panel = read_panel(table, replace(PLAIN, context=()))
    assert panel.summary["steps"]["filled"] == 0
    assert any("further apart than can be counted" in warning for warning in panel.summary["warnings"])


@pytest.mark.parametrize("where", ["in a chunk", "in another chunk", "in another file", "in a frame"])
def test_times_with_a_zone_beside_times_without_are_refused(where, tmp_path):
    naive, zoned = [str(time) for time in HOURS], [f"{time}Z" for time in HOURS]
    half = ROWS // 2
    table = flows(day=pa.chunked_array([naive[:half], zoned[half:]]))
    if where == "in a chunk":
        table = flows(day=naive[:half] + zoned[half:])
    elif where == "in another file":
        for part, zone in enumerate((None, "Europe/Berlin")):
            rows = slice(part * half, (part + 1) * half)
            times = pa.array(HOURS[rows]).cast(pa.timestamp("us", zone))
            pq.write_table(
                flows(day=HOURS).slice(rows.start, half).set_column(1, "day", times), tmp_path / f"{part}.parquet"
            )
        table = tmp_path
    elif where == "in a frame":
        pandas = pytest.importorskip("pandas", reason="pandas is no dependency: only its users have data frames of it")
        times = [pandas.Timestamp(time, tz="UTC" if row % 2 else None) for row, time in enumerate(HOURS)]
        table = pandas.DataFrame(flows().to_pydict()).assign(day=pandas.Series(times, dtype=object))
    with pytest.raises(ValueError, match=r"day: expected (times that all have a zone|values of one type in all parts)"):
        read_panel(table, COLUMNS)


def test_zones_of_parts_may_differ_as_times_with_one_are_instants(tmp_path):
    for part, zone in enumerate(("America/New_York", "Europe/Berlin")):
        table = flows(day=HOURS).slice(part * ROWS // 2, ROWS // 2)
        times = table["day"].cast(pa.timestamp("us", zone))
        pq.write_table(table.set_column(1, "day", times), tmp_path / f"{part}.parquet")
    assert read_panel(tmp_path, COLUMNS).summary["time"]["step"] == "1 hour"


def test_the_first_text_that_is_no_time_is_named():
    days = [str(np.datetime64("2020-01-01") + row) for row in range(ROWS)]
    days[7] = ""
    with pytest.raises(ValueError, match=r"day: expected dates such as 2020-12-31 .*got '' in row 8"):
        read_panel(flows(day=days), COLUMNS)


@pytest.mark.parametrize("offset", [1e8, 1.7e9])
def test_small_spreads_around_large_numbers_keep_their_digits(offset):
    table = flows(discharge=offset + NUMBERS, rain=offset + 60 * np.arange(ROWS))
    data = prepare(read_panel(table, PLAIN))
    rows, batch = data.table_rows(data.test), data.batch(data.test)
    assert np.abs(data.unscale(batch.target).numpy() - (offset + NUMBERS)[rows]).max() < 1e-5
    coding = data.encoding.inputs["rain"]
    expected = (offset + 60 * rows - coding.mean) / coding.std
    assert np.abs(batch.inputs[..., 0].numpy() - expected).max() < 1e-6
    assert read_panel(flows(), PLAIN).target.values.dtype == np.float32  # which needs half of the memory


def test_numbers_too_large_to_scale_are_refused():
    with pytest.raises(ValueError, match=r"area: expected numbers of at most 1e\+150.*got .*e\+300"):
        prepare(read_panel(flows(area=np.repeat(1e300 * np.arange(SERIES), STEPS)), PLAIN))
    values = 3e38 * np.sign(NUMBERS)
    data = prepare(read_panel(flows(discharge=values), PLAIN))
    assert data.batch(data.train).target.isfinite().all()


@pytest.mark.parametrize("style", ["{:.2f}", "{:,.1f}"])
def test_numbers_written_otherwise_are_refused(style):
    texts = [
        style.format(5000 + 1000 * abs(number)).replace(".", "," if style == "{:.2f}" else ".") for number in NUMBERS
    ]
    with pytest.raises(ValueError, match=r"rain: expected numbers such as 1234\.5, .*kinds={'rain': 'category'}"):
        read_panel(flows(rain=texts), PLAIN)
    assert read_panel(flows(rain=texts), replace(PLAIN, kinds={"rain": "category"})).inputs["rain"].kind == "category"


@pytest.mark.parametrize("style", ["{} mm", "${}", "{}%"])
def test_numbers_with_units_are_a_warning(style):
    texts = [style.format(row % 7) for row in range(ROWS)]
    assert any("rain: its texts look like numbers" in warning for warning in warnings_of(flows(rain=texts), PLAIN))


@pytest.mark.parametrize("style", ["10.0.0.{}", "2021-01-{:02}", "A{}", "{}-{}"])
def test_names_with_digits_are_no_numbers(style):
    texts = [style.format(row % 28 + 1, row) for row in range(ROWS)]
    assert not any("rain" in warning for warning in warnings_of(flows(rain=texts), PLAIN))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_decimal_commas_are_read_whatever_separates_them(delimiter, quote, tmp_path):
    lines = [delimiter.join(["basin", "day", "rain", "area", '"flow, m3"'])]
    for row, number in enumerate(NUMBERS):
        cells = [f"b{row // STEPS}", str(row % STEPS), f"{number:.6f}", "1.5", f"{2 * number:.6f}"]
        lines.append(delimiter.join(f"{quote}{cell.replace('.', ',')}{quote}" for cell in cells))
    columns = replace(PLAIN, target="flow, m3", context=())
    panel = read_panel(written(tmp_path, "\n".join(lines)), columns)
    np.testing.assert_allclose(panel.target.values, 2 * NUMBERS, atol=1e-5)


def test_a_csv_file_of_many_columns_is_read(tmp_path):
    names = [f"a column with a long name {number}" for number in range(2000)]
    lines = [",".join(["s", "y", *names]), *(",".join([str(row // 4), f"{row}.5", *["1"] * 2000]) for row in range(40))]
    path = written(tmp_path, "\n".join(lines))
    assert read_panel(path, Columns("y", "s")).summary["rows"]["used"] == 40
    with pytest.raises(ValueError, match=r"columns: expected z in the table, got only s, y.*\.\.\.$"):
        read_panel(path, Columns("z", "s"))


@pytest.mark.parametrize(("encoding", "target"), [("utf-16", "y"), ("latin-1", "größe")])
def test_a_csv_file_of_another_encoding_is_named(encoding, target, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(f"s,{target}\n1,2\n".encode(encoding))
    with pytest.raises(ValueError, match=r"table: expected a CSV file of UTF-8 text, got .*table\.csv"):
        read_panel(path, Columns(target, "s"))


def parts(folder, *tables):
    for place, table in enumerate(tables):
        pq.write_table(table, folder / f"{place}.parquet")
    return folder


def test_parts_of_other_types_are_read_where_one_type_holds_all(tmp_path):
    table, half = flows(uses=None), ROWS // 2
    whole = table.slice(0, half).set_column(5, "area", pa.array([2] * half))
    columns = replace(COLUMNS, context=("area",), series=None, time=None)
    panel = read_panel(
        parts(tmp_path, whole.drop_columns(["weather"]), table.slice(half)), replace(columns, context=())
    )
    assert panel.summary["columns"]["weather"]["missing"] == half
    area = read_panel(tmp_path, Columns("rain", inputs=("area",))).inputs["area"]
    assert area.values.tolist() == [2.0] * half + table["area"].to_pylist()[half:]


def test_parts_of_types_that_do_not_go_together_are_refused(tmp_path):
    table, half = flows(), ROWS // 2
    texts = table.slice(0, half).set_column(2, "rain", pa.array(["much"] * half))
    with pytest.raises(
        ValueError, match=r"rain: expected values of one type in all parts, got string before and double in .*1\."
    ):
        read_panel(parts(tmp_path, texts, table.slice(half)), COLUMNS)


def test_a_column_twice_in_a_parquet_file_is_named(tmp_path):
    table = flows()
    double = pa.Table.from_arrays([*table.columns, table["rain"]], names=[*table.column_names, "rain"])
    with pytest.raises(ValueError, match="table: expected each column once, got 'rain' twice in"):
        read_panel(parts(tmp_path, double), COLUMNS)


def test_frames_of_pandas_with_names_that_are_numbers_or_levels_that_are_columns():
    pandas = pytest.importorskip("pandas", reason="pandas is no dependency: only its users have data frames of it")
    frame = pandas.DataFrame(flows().to_pydict())
    numbered = read_panel(frame.rename(columns={"discharge": 0}), replace(COLUMNS, target="0"))
    expected = read_panel(flows(), COLUMNS)
    np.testing.assert_array_equal(numbered.target.values, expected.target.values)
    index = pandas.MultiIndex.from_arrays([frame["basin"], frame["rain"]], names=["basin", "rain"])
    levels = read_panel(frame.drop(columns="basin").set_index(index), COLUMNS)
    assert levels.series_names == expected.series_names
    with pytest.raises(ValueError, match="rain: expected values of one type, got"):
        read_panel(frame.assign(rain=pandas.Series([2**70] * ROWS, dtype=object)), COLUMNS)
    with pytest.raises(ValueError, match="table: expected each column once, got '0' twice"):
        read_panel(frame.rename(columns={"discharge": 0, "rain": "0"}), replace(COLUMNS, target="0"))


@pytest.mark.parametrize("column", ["area", "soil"])
def test_a_constant_context_is_a_warning(column):
    value = {"area": 3.0, "soil": "clay"}[column]
    assert f"{column}: it has the same value in every row, from which nothing can be learned" in warnings_of(
        flows(**{column: [value] * ROWS})
    )


def test_a_group_that_is_a_context_keeps_its_kind():
    area = np.repeat(np.arange(SERIES) % 4 + 0.5, STEPS)
    columns = replace(PLAIN, group="area")
    table = flows(area=area)
    data = prepare(read_panel(table, columns), Split("group"))
    assert (data.encoding.context["area"].kind, data.panel.columns.kinds["area"]) == ("quantity", "quantity")
    new = prepare_new(table, Encoding.from_json(data.encoding.to_json()))
    assert new.batch(new.test).context["area"].tolist() == area[::STEPS].tolist()


def test_a_new_table_may_have_columns_of_empty_cells():
    """As a CSV file has them, whose type nobody can say."""
    data = prepare(read_panel(flows(), COLUMNS))
    nothing = pa.nulls(ROWS)
    new = prepare_new(flows(discharge=nothing, rain=nothing, weather=nothing, uses=nothing), data.encoding)
    typed = {"discharge": pa.float64(), "rain": pa.float64(), "weather": pa.string(), "uses": pa.list_(pa.string())}
    expected = prepare_new(flows(**{name: nothing.cast(kind) for name, kind in typed.items()}), data.encoding)
    np.testing.assert_array_equal(new.batch(new.test).inputs, expected.batch(expected.test).inputs)
    np.testing.assert_array_equal(new.batch(new.test).context["uses"], expected.batch(expected.test).context["uses"])


EACH = np.repeat(NUMBERS[:SERIES], STEPS)
LABELS = np.repeat(["a", "b"] * 5, STEPS)


@pytest.mark.parametrize(
    ("columns", "leaking"),
    [
        ({"rain": np.exp(2 * NUMBERS), "discharge": NUMBERS}, "rain: possible leak, at each step"),
        ({"rain": 2 * EACH, "discharge": EACH}, "rain: .*same order"),
        ({"weather": np.char.upper(LABELS), "discharge": LABELS}, "weather: .*series"),
        ({"uses": [[label] for label in LABELS.tolist()], "discharge": LABELS}, "uses: .*series"),
    ],
)
def test_more_columns_that_give_the_target_away(columns, leaking):
    assert [warning for warning in warnings_of(flows(**columns)) if re.search(leaking, warning)]


LONG_NAMES = [88_888_888_888_888_888_800 + row // STEPS for row in range(ROWS)]
ROUNDED = "expected texts, or whole numbers that keep all of their digits, got 8.88889e.19"


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.decimal128(20)])
def test_names_that_are_rounded_to_the_same_float_are_refused(kind):
    table = {"names": pa.array(LONG_NAMES, pa.decimal128(20)).cast(kind, safe=False)}
    as_context = replace(PLAIN, context=("names",), kinds={"names": "category"})
    for columns in (replace(PLAIN, series="names"), replace(PLAIN, group="names"), as_context):
        with pytest.raises(ValueError, match=f"names: {ROUNDED}"):
            read_panel(flows(**table), columns)


def test_numbers_of_twenty_digits_in_a_csv_file_are_refused_as_categories(tmp_path):
    """Arrow reads them as floats, of which all were the same one; names of series are read as they are written."""
    rows = (f"{name},{row},{name},{row % 5}\n" for row, name in enumerate(LONG_NAMES))
    path = written(tmp_path, "basin,day,soil,discharge\n" + "".join(rows))
    columns = replace(PLAIN, inputs=(), context=("soil",), kinds={"soil": "category"})
    with pytest.raises(ValueError, match=f"soil: {ROUNDED}"):
        read_panel(path, columns)
    series = read_panel(path, replace(columns, context=(), kinds={})).series_names
    assert series == list(dict.fromkeys(map(str, LONG_NAMES)))

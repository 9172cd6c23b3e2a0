"""The same table in every form gives the same panel; what is no table is refused in words of our own."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import torch
from tests.experiments.panels.tables import COLUMNS, flows

from contextual_rnn.experiments.panels import Columns, csv_files, prepare, prepare_new, read_panel

PLAIN = replace(COLUMNS, context=("soil", "area"))


def plain_table() -> pa.Table:
    """Columns that CSV files can hold, one of them with missing values, one that nobody asks for."""
    rain = flows()["rain"].to_pylist()
    rain[7] = None
    return flows(rain=rain, uses=None, note=["a, b"] * 120)


def write_csv(table: pa.Table, path, delimiter: str = ",") -> None:
    csv.write_csv(table, path, csv.WriteOptions(delimiter=delimiter))


def assert_same(panel, expected) -> None:
    first, second = prepare(panel), prepare(expected)
    assert first.summary["rows"] == second.summary["rows"]
    assert {**vars(first.encoding), "columns": 0} == {**vars(second.encoding), "columns": 0}
    np.testing.assert_array_equal(first.batch(first.train).inputs, second.batch(second.train).inputs)
    np.testing.assert_array_equal(first.batch(first.test).target, second.batch(second.test).target)


def as_file(table, folder):
    pq.write_table(table, folder / "table.parquet", row_group_size=17)
    return folder / "table.parquet"


def as_files(table, folder):
    for part in range(3):
        pq.write_table(table.slice(part * 40, 40), folder / f"{part}.pq")
    return [str(folder / f"{part}.pq") for part in range(3)]


def as_folder(table, folder):
    for part in range(3):
        (folder / "parts" / f"part={part}").mkdir(parents=True)
        pq.write_table(table.slice(part * 40, 40), folder / "parts" / f"part={part}" / "0.parquet")
    (folder / "parts" / "_SUCCESS").touch()
    return folder / "parts"


def as_csv(table, folder):
    write_csv(table, folder / "table.csv")
    return folder / "table.csv"


def as_csv_parts(table, folder):
    for part in range(2):
        write_csv(table.slice(part * 60, 60), folder / f"{part}.csv")
    return folder


def as_tabs(table, folder):
    write_csv(table, folder / "table.tsv", "\t")
    return folder / "table.tsv"


def as_decimal_commas(table, folder):
    lines = [";".join(table.column_names)]
    for row in table.to_pylist():
        cells = [str(value).replace(".", ",") if isinstance(value, float) else value for value in row.values()]
        lines.append(
            ";".join("" if value is None else f'"{value}"' if value == "a, b" else str(value) for value in cells)
        )
    (folder / "table.csv").write_text("\ufeff" + "\n".join(lines))
    return folder / "table.csv"


def as_dictionaries(table, folder):
    for name in ("basin", "soil"):
        table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    return table


def as_batches(table, folder):
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=11))


class OnlyInterchange:
    """A data frame that has the older protocol alone."""

    def __init__(self, table):
        self.table = table

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        return self.table.__dataframe__(nan_as_null, allow_copy)


@pytest.mark.parametrize(
    "form",
    [as_file, as_files, as_folder, as_csv, as_csv_parts, as_tabs, as_decimal_commas, as_dictionaries, as_batches],
)
def test_every_form_of_a_table_is_the_same(form, tmp_path):
    table = plain_table()
    assert_same(read_panel(form(table, tmp_path), PLAIN), read_panel(table, PLAIN))


def test_the_older_protocol_of_data_frames_is_read():
    table = plain_table().drop(["day"])
    columns = replace(PLAIN, time=None)
    assert_same(read_panel(OnlyInterchange(table), columns), read_panel(table, columns))


def test_data_frames_of_pandas_are_read_with_or_without_an_index():
    pandas = pytest.importorskip("pandas", reason="pandas is no dependency: only its users have data frames of it")
    table = plain_table()
    frame = pandas.DataFrame(table.to_pydict())
    expected = read_panel(table, PLAIN)
    for form in (frame, frame.set_index(["basin", "day"]), frame.astype({"soil": "category"})):
        assert_same(read_panel(form, PLAIN), expected)
    with pytest.raises(ValueError, match="rain: expected values of one type"):
        read_panel(frame.assign(rain=["a", 1.0] * 60), PLAIN)
    with pytest.raises(ValueError, match="table: expected each column once, got 'soil' twice"):
        read_panel(pandas.concat([frame, frame[["soil"]]], axis=1), PLAIN)
    with pytest.raises(TypeError, match="table: expected a data frame, got a Series"):
        read_panel(frame["rain"], PLAIN)


def test_partitions_of_folders_are_columns(tmp_path):
    panel = read_panel(as_folder(flows(12, 10), tmp_path), Columns(target="discharge", series="part", inputs=("rain",)))
    assert sorted(panel.series_names) == [0, 1, 2]
    assert panel.summary["steps"]["longest"] == 40


WRITTEN = [
    "001",
    "1",
    "1.0",
    "1e5",
    "100000",
    "TRUE",
    "true",
    "nan",
    "NA",
    " a",
    "a",
    "12345678901234567890",
    "+1",
    "0x1",
]


@pytest.mark.parametrize("role", ["series", "group"])
def test_names_in_a_csv_file_stay_as_they_are_written(tmp_path, role):
    rows = [
        f"{name},s{place},{place + 7 * step % 5},{step % 2 or 'NA'}"
        for place, name in enumerate(WRITTEN)
        for step in (0, 1)
    ]
    (tmp_path / "table.csv").write_text(
        "\n".join(["name,s,y,x", *rows, ",s,1,1", '"",s,2,1'][: None if role == "series" else -2])
    )
    columns = Columns(
        "y", "name" if role == "series" else "s", inputs=("x",), group="name" if role == "group" else None
    )
    panel = read_panel(tmp_path / "table.csv", columns)
    assert (panel.series_names if role == "series" else panel.group_names) == WRITTEN
    assert panel.summary["columns"]["x"] == {"kind": "quantity", "missing": len(WRITTEN), "least": 1.0, "most": 1.0}
    assert panel.summary["rows"]["left out"] == ({"name is missing": 2} if role == "series" else {})


def test_names_that_are_whole_numbers_in_every_part_are_so(tmp_path):
    for part, names in enumerate((["7", "12"], ["-3", "12"])):
        rows = [f"{name},{part + place},NA" for place, name in enumerate(names)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["name,y,x", *rows, ",5,b"]))
    columns = Columns("y", "name", inputs=("x",))
    panel = read_panel(tmp_path, columns)
    assert panel.series_names == [7, 12, -3]
    (tmp_path / "1.csv").write_text("name,y,x\n07,1,b\n12,2,b")
    assert read_panel(tmp_path, columns).series_names == ["7", "12", "07"]


def test_what_was_text_in_training_is_text_in_a_new_file_of_numbers_alone(tmp_path):
    def written(name, zones, tags):
        rows = [f"{s},{zones[s]},{tags[s]},{(3 * s + t) % 7}" for s in range(len(zones)) for t in (0, 1)]
        (tmp_path / name).write_text("\n".join(["series,zone,tags,y", *rows]))
        return tmp_path / name

    zones, tags = ["01", "02", "2A", "1", "NA"] * 4, ["1;2", "2", "01", "1", "NA"] * 4
    columns = Columns("y", "series", context=("zone", "tags"), kinds={"zone": "category", "tags": "set:;"})
    data = prepare(read_panel(written("a.csv", zones, tags), columns))
    places = {zone: place for place, zone in enumerate(data.context["zone"].categories)}
    new = prepare_new(written("b.csv", ["01", "02", "1", "NA"], ["2", "1", "01", "NA"]), data.encoding)
    context = new.batch(new.test).context
    assert context["zone"].tolist() == [places["01"], places["02"], places["1"], places[None]]
    whole = prepare_new(tmp_path / "a.csv", data.encoding)
    assert torch.equal(context["tags"], whole.batch(whole.test).context["tags"][[1, 3, 2, 4]])
    assert not [warning for warning in new.summary["warnings"] if "were not in training" in warning]


def test_names_of_folders_that_are_names_of_series_stay_as_they_are_written(tmp_path):
    for part in ("01", "1", "10"):
        (tmp_path / f"part={part}").mkdir()
        pq.write_table(flows(1), tmp_path / f"part={part}" / "0.parquet")
    assert sorted(read_panel(tmp_path, Columns("discharge", "part")).series_names) == ["01", "1", "10"]
    assert read_panel(tmp_path, Columns("discharge", inputs=("part",))).columns.kinds["part"] == "quantity"


def test_columns_of_parts_agree_however_they_are_written(tmp_path):
    """A folder may name a column that its files hold too; parts have categories of their own, in few bytes."""
    table = flows(12, 20)
    for part, key in enumerate(("1", "x")):
        rows = table.slice(part * 120, 120)
        station = pa.array([f"{part}-{row}" for row in range(120)]).cast(pa.dictionary(pa.int8(), pa.string()))
        own = pa.array([part] * 120)
        (tmp_path / f"half={key}" / f"part={part}").mkdir(parents=True)
        rows = rows.append_column("station", station).append_column("part", own).append_column(f"only {part}", own)
        pq.write_table(rows, tmp_path / f"half={key}" / f"part={part}" / "0.parquet")
    columns = Columns("discharge", "basin", "day", ("station", "part", "only 1"), ("half",))
    described = read_panel(tmp_path, columns).summary["columns"]
    assert described["station"]["categories"] == 240
    assert described["half"] == {"kind": "category", "missing": 0, "categories": 2}
    assert (described["part"]["least"], described["part"]["most"]) == (0, 1)
    assert described["only 1"]["missing"] == 120


@pytest.mark.parametrize("other", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("first", [True, False])
def test_parts_may_hold_texts_as_views(tmp_path, other, first):
    for part in range(2):
        rows = flows().slice(part * 60, 60)
        texts = pa.string_view() if (part == 0) == first else other
        pq.write_table(rows.set_column(0, "basin", rows["basin"].cast(texts)), tmp_path / f"{part}.parquet")
    assert read_panel(tmp_path, COLUMNS).series_names == read_panel(flows(), COLUMNS).series_names


def test_a_column_of_whole_numbers_may_be_in_the_names_of_folders_too(tmp_path):
    for part in range(2):
        (tmp_path / f"part={part}").mkdir()
        rows = flows(12, 20).slice(part * 120, 120).append_column("part", pa.array([part] * 120))  # of 64 bits
        pq.write_table(rows, tmp_path / f"part={part}" / "0.parquet")
    panel = read_panel(tmp_path, Columns("discharge", "basin", "day", ("rain",), ("part",)))
    assert panel.summary["columns"]["part"]["most"] == 1


def test_types_of_a_csv_file_hold_all_of_its_values(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "LARGEST_BLOCK", 1 << 18)
    rows = 60_000  # more than a block, of which only the last has a fraction
    lines = "\n".join([f"{row // 10},{row % 10},{row % 7}" for row in range(rows)] + [f"{rows // 10},0,2.5"])
    (tmp_path / "t.csv").write_text(f"s,t,y\n{lines}\n")
    panel = read_panel(tmp_path / "t.csv", Columns(target="y", series="s", time="t"))
    assert panel.target.values[-1] == 2.5


def written(folder, name: str, content: bytes):
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "table: expected a first line"),
        ("a.csv", b"target,series\n1,2\n3\n", "table: expected a CSV file of UTF-8 text, .*2 columns, got 1"),
        ("a.csv", "series,target\nß,1\n".encode("latin-1"), "series: expected UTF-8 text"),
        ("a.csv", "target,series\n1,ß\n".encode("latin-1"), "series: expected UTF-8 text"),
        ("a.csv", "other,target,series\n1,ß,1\n".encode("latin-1"), "target: expected UTF-8 text"),
        ("a.csv", b"target;series\n1;2\nx;3\n4;4\n5;5\n", "target: expected numbers, .*got 'x' in row 2"),
        ("a.csv", b"target,series,target\n1,2,3\n", "table: expected each column once, got 'target' twice"),
        ("a.parquet", b"PAR1 is not all", "table: expected Parquet files"),
        ("a.xlsx", b"PK", r"table: expected files of one kind that end in .*\.xlsx"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_panel(written(tmp_path, name, content), Columns(target="target", series="series"))


def test_a_parquet_file_damaged_in_the_middle_is_refused_by_column(tmp_path):
    path = as_file(plain_table(), tmp_path)
    content = bytearray(path.read_bytes())
    content[40:600] = bytes(560)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected"):
        read_panel(path, PLAIN)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"table: expected a file or folder, got '.*nowhere"):
        read_panel(tmp_path / "nowhere.csv", PLAIN)
    with pytest.raises(ValueError, match="table: expected parts that end in"):
        read_panel(tmp_path, PLAIN)
    for table in (3, None, [], [3], {"a": [1]}):
        with pytest.raises(TypeError, match="table: expected a path, paths, or a data frame"):
            read_panel(table, PLAIN)
    with pytest.raises(ValueError, match="table: expected each column once, got 'a' twice"):
        read_panel(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), Columns(target="a"))


def test_without_pyarrow_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "contextual-rnn\[compare\]"'):
        read_panel("a.csv", PLAIN)

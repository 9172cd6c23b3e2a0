"""Tables of many columns, series, categories or long texts cost what they hold, not its square."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.experiments.panels.tables import flows

from contextual_rnn.experiments.panels import Columns, arrow, leaks, prepare, read_panel
from contextual_rnn.experiments.panels.source import open_table

WIDE = 100


class Counted(str):
    """A name that counts how often it is compared with another one."""

    compared = 0

    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)


def wide(columns: int, rows: int = 3) -> pa.Table:
    return pa.table({f"x{column}": np.full(rows, 1.5) for column in range(columns)})


def test_names_are_compared_once():
    inputs, context = ([Counted(f"{role}{place}") for place in range(WIDE)] for role in "xc")
    kinds = {Counted(name): "quantity" for name in (*inputs, *context)}
    Counted.compared = 0
    Columns("y", inputs=inputs, context=context, kinds=kinds)
    assert Counted.compared < 20 * WIDE


def test_columns_of_a_csv_file_that_nobody_asks_for_are_made_at_once(tmp_path, monkeypatch):
    csv.write_csv(wide(WIDE), tmp_path / "wide.csv")
    made, nulls = [], pa.nulls
    monkeypatch.setattr(pa, "nulls", lambda size: made.append(size) or nulls(size))
    source = open_table(tmp_path / "wide.csv", ["x1"])
    assert list(source.types) == [f"x{column}" for column in range(WIDE)]
    assert made == [3]


def test_a_wide_csv_file_is_not_read_in_a_piece_for_every_few_rows(tmp_path):
    csv.write_csv(wide(WIDE, 5000), tmp_path / "wide.csv")
    assert (tmp_path / "wide.csv").stat().st_size > 1 << 20  # what Arrow reads at once by default
    assert len(list(open_table(tmp_path / "wide.csv", ["x1"]).read("x1"))) == 1


@pytest.mark.parametrize("text", ["line\nwith, a comma and another line\n" * 2, "ab" * 700_000], ids=["lines", "long"])
def test_texts_of_a_csv_file_may_have_lines_and_any_length(tmp_path, text):
    texts = [f"{row} {text}" for row in range(1_400_000 // len(text) + 3)]
    csv.write_csv(
        pa.table({"text": texts, "who": ["a", "b", "c"] * (len(texts) // 3) + ["a"] * (len(texts) % 3)}),
        tmp_path / "texts.csv",
    )
    panel = read_panel(tmp_path / "texts.csv", Columns("text", context=("who",)))
    assert panel.summary["sequences"] == len(texts)
    assert panel.summary["steps"]["longest"] == max(map(len, texts))


def test_short_columns_of_a_parquet_file_are_read_together(tmp_path, monkeypatch):
    pq.write_table(wide(WIDE), tmp_path / "wide.parquet")
    scans, dataset = [], ds.dataset

    class Watched:
        def __init__(self, *args, **options):
            self._data = dataset(*args, **options)

        def scanner(self, columns, **options):
            scans.append(columns)
            return self._data.scanner(columns=columns, **options)

        def __getattr__(self, name):
            return getattr(self._data, name)

    monkeypatch.setattr(ds, "dataset", Watched)
    names = [f"x{column}" for column in range(1, WIDE)]
    source = open_table(tmp_path / "wide.parquet", names)
    for name in names:
        assert pa.chunked_array(list(source.read(name))).to_pylist() == [1.5] * 3
    assert scans == [names]


@pytest.mark.parametrize("column", ["day", "rain"])
def test_a_text_that_is_wrong_is_looked_for_by_halves(column, monkeypatch):
    table, casts, can_cast = flows(series=40), [], arrow.can_cast
    texts = [*table[column].cast(pa.string()).to_pylist()]
    texts[-5] = "none"
    table = table.set_column(table.column_names.index(column), column, pa.array(texts))
    monkeypatch.setattr(arrow, "can_cast", lambda texts, kind: casts.append(len(texts)) or can_cast(texts, kind))
    with pytest.raises(ValueError, match=f"{column}: expected .*, got 'none' in row {len(texts) - 4}"):
        read_panel(table, Columns("discharge", "basin", "day", ("rain",), kinds={"rain": "quantity"}))
    assert sum(casts) < 8 * len(texts)
    assert 0 < len(casts) < 50


def test_a_batch_does_not_look_at_the_whole_table():
    def memory(series: int) -> int:
        table = flows(series=series, soil=[f"soil {row // 12}" for row in range(series * 12)])
        data = prepare(read_panel(table, Columns("discharge", "basin", "day", ("discharge", "rain"), ("soil",))))
        data.batch(data.train[:2])
        tracemalloc.start()
        data.batch(data.train[:2])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert memory(400) < 1.2 * memory(40)


def test_many_different_values_are_not_hashed(monkeypatch):
    """np.unique hashes whole numbers, which takes ten times as long as to sort them."""
    table, sizes = flows(series=40), []
    steps = pa.array(np.arange(len(table)) % 3).cast(pa.string())
    table = table.set_column(table.column_names.index("discharge"), "discharge", steps)

    class Watched:
        def __getattr__(self, name):
            return getattr(np, name)

        def unique(self, values, *args, **options):
            if np.asarray(values).dtype.kind == "i":
                sizes.append(np.asarray(values).size)
            return np.unique(values, *args, **options)

    monkeypatch.setattr(leaks, "np", Watched())
    read_panel(table, Columns("discharge", "basin", "day", ("rain",)))
    assert not sizes

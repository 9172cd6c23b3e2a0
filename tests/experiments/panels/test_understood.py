"""What was understood of a table, in words; and the tables of real data."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.experiments.panels.tables import COLUMNS, flows

from contextual_rnn.experiments.panels import Columns, Split, prepare, prepare_new, read_panel
from contextual_rnn.experiments.panels.examples import DEMO, EXAMPLES, example_table


def test_a_description_says_what_each_column_is():
    table = flows(hospital=[f"h{row // 24}" for row in range(120)]).filter(pa.array(np.arange(120) % 12 != 5))
    data = prepare(read_panel(table, replace(COLUMNS, group="hospital")), Split("group"), length=5)
    lines = data.describe().splitlines()
    for line in (
        "rows            110 read, 110 used",
        "series          10 by basin, 5 groups by hospital, of 12 to 12 steps, median 12",
        "target          discharge, a number for each step",
        "each step sees  rain, weather (7 numbers)",
        "context         soil, area, uses",
        "window          the 3 steps before each start (9 numbers a step)",
        "hospital   group    category  0        5 different",
    ):
        assert line in lines, data.describe()
    assert any(line.startswith("time            day, every 1 day; 10 missing steps are filled") for line in lines)
    assert any(line.endswith("of at most 5 steps, split by group") for line in lines)
    assert not any(line.startswith("warning") for line in lines)


def test_a_description_has_every_warning_and_reason():
    target = flows()["discharge"].to_pylist()
    target[:12] = [None] * 12
    data = prepare(read_panel(flows(discharge=target), COLUMNS))
    assert "120 read, 108 used; 12 left out: no known target" in data.describe()
    assert "warning: rows left out because of no known target: 12" in data.describe()
    new = prepare_new(flows(soil=["peat"] * 120), data.encoding)
    assert "warning: soil: 1 categories were not in training" in new.describe()


def test_a_description_of_texts_says_that_rows_are_sequences():
    table = pa.table({"name": ["ab", "ba", "abba", "baa"]})
    text = prepare(read_panel(table, Columns(target="name"))).describe()
    assert "name: each row is a text of its own, 2 different characters" in text
    assert "each step sees  the character before" in text
    assert "4 by each row" in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_tables_of_real_data_are_whole(name):
    package = {"countries": "plotly", "vowels": "aeon"}.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package}, whose data this is, is no dependency: pip install --no-deps {package}")
    data = prepare(read_panel(*example_table(name)))
    rows = {"colors": 949, "countries": 1704, "vowels": 9961}[name]
    assert data.summary["rows"] == {"read": rows, "used": rows, "left out": {}}
    rare = "2 steps of validation and test have a class that training lacks, and do not count"
    assert data.summary["warnings"] == ([f"name: {rare}"] if name == "colors" else [])
    batch = data.batch(data.train)
    assert batch.inputs.isfinite().all()
    assert batch.target.float().std() > 0.1


def test_the_demo_needs_no_further_package():
    assert DEMO == "colors"  # of matplotlib, which experiments need anyway


def test_unknown_examples_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(ValueError, match="name: expected one of colors, countries, vowels, got 'iris'"):
        example_table("iris")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps plotly"):
        example_table("countries")

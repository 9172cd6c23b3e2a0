"""docs/compare.md is true: its code runs as one program and prints what it shows; its tables are those of results/."""

import functools
from pathlib import Path

import pyarrow
import pytest
from tests.experiments.compare.small import serial
from tests.pages import ROOT, blocks, run

from contextual_rnn.experiments.compare import compare as module
from contextual_rnn.experiments.compare.page import RESULTS, filled, tables_of
from contextual_rnn.experiments.compare.winner import write_table

PAGE = ROOT / "docs" / "compare.md"


def test_the_part_on_tables(capsys):
    scope = run(PAGE)
    (description,) = (text for text in blocks(PAGE, "text") if text.startswith("rows "))
    assert capsys.readouterr().out == description
    assert scope["names"].batch(scope["names"].train).target.shape[0] == 2
    assert len(scope["new"].test) == len(scope["table"])


def test_its_tables_are_those_of_the_results():
    """Where this fails after new results: make pages"""
    tables = tables_of(ROOT / RESULTS)
    page = PAGE.read_text("utf-8")
    assert filled(page, tables) == page
    with pytest.raises(ValueError, match="page: expected <!-- counts -->"):
        filled("a page without marks", tables)


@pytest.fixture
def flows(tmp_path, monkeypatch):
    """A folder with the tables that the page names: twelve basins of forty days."""
    monkeypatch.chdir(tmp_path)
    days = range(12 * 40)
    table = {
        "basin": [f"basin {day // 40}" for day in days],
        "day": [day % 40 for day in days],
        "rain": [float(day * 7919 % 101) for day in days],
        "soil": [("clay", "sand", "loam")[day // 40 % 3] for day in days],
        "discharge": [float(day * 104729 % 97) for day in days],
    }
    for name in ("flows.parquet", "new.parquet"):
        write_table(pyarrow.table(table), Path(name))


def test_the_function_and_its_winner(flows, monkeypatch, capsys):
    small = {"arms": ("context",), "seeds": 2, "units": (4,), "learning_rates": (0.02,), "steps": 2, "workers": 1}
    monkeypatch.setattr(module, "compare", functools.partial(module.compare, **small))
    monkeypatch.setattr(module, "local_workers", lambda count: serial())
    scope = {}
    for block in blocks(PAGE, "py"):
        exec(compile(block, str(PAGE), "exec"), scope)
    assert len(capsys.readouterr().out.splitlines()) == 3, "the answer"
    assert scope["predictions"].num_rows
    assert next(scope["model"].parameters()).numel()

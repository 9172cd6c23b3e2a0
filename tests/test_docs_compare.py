"""docs/compare.md is true: its code runs as one program and prints what it shows; its tables are those of results/."""

import re
from pathlib import Path

import pytest

from contextual_rnn.experiments.compare.page import RESULTS, filled, tables_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "compare.md").read_text()


def test_the_part_on_tables(capsys):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
    scope: dict = {"__name__": "docs"}
    exec(compile(code, "docs/compare.md", "exec"), scope)
    (description,) = re.findall(r"^```text\n(rows .*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert capsys.readouterr().out == description
    assert scope["names"].batch(scope["names"].train).target.shape[0] == 2
    assert len(scope["new"].test) == len(scope["table"])


def test_its_tables_are_those_of_the_results():
    """Where this fails after new results: make pages"""
    tables = tables_of(ROOT / RESULTS)
    assert filled(PAGE, tables) == PAGE
    with pytest.raises(ValueError, match="page: expected <!-- counts -->"):
        filled("a page without marks", tables)

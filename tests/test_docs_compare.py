"""docs/compare.md is true: its code runs in order as one program and prints the description shown."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "compare.md").read_text()


def test_the_part_on_tables(capsys):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
    scope: dict = {"__name__": "docs"}
    exec(compile(code, "docs/compare.md", "exec"), scope)
    (description,) = re.findall(r"^```text\n(rows .*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert capsys.readouterr().out == description
    assert scope["names"].batch(scope["names"].train).target.shape[0] == 2
    assert len(scope["new"].test) == len(scope["table"])

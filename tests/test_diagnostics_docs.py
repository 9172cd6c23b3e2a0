"""docs/diagnostics.md is true: its code runs in order as one program and prints the table shown."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "diagnostics.md").read_text()


def test_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
    scope: dict = {"__name__": "docs"}
    exec(compile(code, "docs/diagnostics.md", "exec"), scope)
    printed = capsys.readouterr().out.splitlines()
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    for line, expected in zip(printed, shown.splitlines(), strict=False):
        words, numbers = line.split(), expected.split()
        assert words[:1] == numbers[:1]
        if words and words[0] == "all":  # trained for 60 steps, so that other last digits grow
            pairs = zip(map(float, words[1:]), map(float, numbers[1:]), strict=True)
            assert all(abs(ours - theirs) < 0.1 * theirs for ours, theirs in pairs), line
    assert printed[len(shown.splitlines()) - 2] == shown.splitlines()[-2], "p"
    assert (tmp_path / "diagnosis.svg").exists()
    assert scope["diagnosis"].overall["true"] < 0.6 * scope["diagnosis"].overall["zeroed"]

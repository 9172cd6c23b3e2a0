"""docs/language.md is true: its code runs in order, and it lists the families that are tested."""

import re
from pathlib import Path

from tests.language.families import FAMILIES

from contextual_rnn.language.layout import TESTED

PAGE = (Path(__file__).parents[1] / "docs" / "language.md").read_text()


def test_code_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    scope = {"__name__": "language"}
    exec(compile(code, "language.md", "exec"), scope)
    comment = re.search(r"print\(spec.describe\(\)\)  # (.*) \.\.\.", PAGE)[1]
    assert capsys.readouterr().out.startswith(comment)
    assert scope["texts"].shape == (4, 7)
    assert scope["between"](batch_size=2)["layer2"].shape == (2, 2, 8, 8)


def test_the_families_are_those_that_are_tested():
    names = {
        name.replace("Qwen3_5", "Qwen3.5").replace("Qwen3Next", "Qwen3-Next").replace("RWKV7", "RWKV-7")
        for name in FAMILIES
    }
    assert set(TESTED.split(", ")) == names
    assert f"5.24: {TESTED}." in " ".join(PAGE.split())

"""The page on generation is true: its code runs in order as one program."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[2] / "docs" / "generation.md").read_text()


def test_code_runs_in_order():
    torch.manual_seed(0)
    scope = {"__name__": "generation"}
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    exec(compile(code, "generation.md", "exec"), scope)
    assert scope["texts"].values.shape == (4, 5, 20)
    assert scope["best"].values.shape == (4, 3, 20)
    assert scope["more"].values.shape == (12, 1, 10)
    assert scope["rates"].values.shape == (6, 3, 40, 32)
    assert scope["between"].values.shape == (7, 1, 20)

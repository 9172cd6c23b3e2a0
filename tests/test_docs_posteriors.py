"""The page on posteriors is true: its code runs in order as one program."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[1] / "docs" / "posteriors.md").read_text()


def test_code_runs_in_order():
    torch.manual_seed(0)
    scope = {"__name__": "posteriors"}
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    exec(compile(code, "posteriors.md", "exec"), scope)
    assert scope["bound"].shape == (8,)
    assert scope["output"].shape == (40, 20, 64)
    assert scope["q"].drawn.shape == (8, 4)
    assert scope["paths"].shape == (7, 1, 9, 3)

"""The page on sequences is true: its code runs in order as one program."""

import re
from pathlib import Path

import torch
from tests.networks import tensors_of

PAGE = (Path(__file__).parents[1] / "docs" / "sequences.md").read_text()


def test_code_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = {"__name__": "sequences"}
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    exec(compile(code, "sequences.md", "exec"), scope)
    assert scope["begins"].any()
    assert scope["output"].shape == (4, 6, 16)
    assert all(map(torch.equal, tensors_of(scope["warm"]), tensors_of(scope["state"])))

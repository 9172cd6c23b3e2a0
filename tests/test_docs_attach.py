"""docs/attach.md is true: its code runs in order as one program."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[1] / "docs" / "attach.md").read_text()


def test_code_runs_in_order():
    torch.manual_seed(0)
    scope = {"__name__": "attach"}
    exec(
        compile("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)), "attach.md", "exec"),
        scope,
    )
    model, state = scope["model"], scope["state"]
    assert scope["loss"].isfinite()
    assert model.lstm.initial_state is state
    plain = type(model)()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(plain(scope["x"]), model(scope["x"], scope["static"]))  # zero_init

"""The deployment page is true: its code runs in order as one program, and what it counts is there."""

import re
from pathlib import Path

import numpy as np
import torch
from tests.deployment.attached import CASES as ATTACHED
from tests.deployment.attached import WAYS
from tests.deployment.matrix import CASES
from tests.deployment.test_copies import KEPT
from tests.deployment.test_distributed import CASES as DISTRIBUTED
from tests.deployment.test_export import EXPORTED
from tests.deployment.test_fully_shard import CASES as SHARDED
from tests.deployment.test_quantised import CASES as QUANTISED
from tests.deployment.test_trace import EXPORTED as EXPORTED_BY_TRACE

PAGE = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text()


def test_code_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    scope = {"__name__": "deployment"}
    exec(compile(code, "deployment.md", "exec"), scope)
    model, x, context = scope["model"].eval(), scope["x"], scope["context"]
    with torch.no_grad():
        wanted = model(x, context=context)[0]
        torch.testing.assert_close(scope["output"], wanted, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(scope["arrays"][0], wanted.numpy(), rtol=1e-5, atol=2e-6)
        assert torch.equal(scope["loaded"](x, context=context)[0], wanted)


def test_the_counts_of_the_table_are_those_of_the_tests():
    assert len(CASES) == 52
    assert "all 52" in PAGE
    assert f"golden files for {len(KEPT)}" in PAGE
    assert len(DISTRIBUTED) == 10
    assert len(EXPORTED) == 7
    assert f"| {len(ATTACHED)} models, {len(WAYS)} ways to give the context |" in PAGE
    assert len(QUANTISED) == 8
    assert len(SHARDED) == 5
    assert len(EXPORTED_BY_TRACE) == 5

"""Run an example by its command, in its small setting."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, out: Path) -> dict[str, Any]:
    """Its figures; fails where it writes no picture, or the program is longer than anyone would copy.

    In this process, which has imported what an example imports.
    """
    program = EXAMPLES / f"{name}.py"
    assert len(program.read_text().splitlines()) <= 150
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(program), "--quick", "--out", str(out)])
        patch.syspath_prepend(EXAMPLES)
        runpy.run_path(str(program), run_name="__main__")
    assert (out / f"{name}.png").stat().st_size > 10_000
    evidence = json.loads((out / f"{name}.json").read_text())
    assert "--quick" in evidence["command"]
    assert evidence["options"]["quick"] is True
    return evidence["figures"]

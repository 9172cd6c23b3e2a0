"""Run an example by its command, in its small setting."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, out: Path) -> dict[str, Any]:
    """Its figures; fails where it writes no picture, or the program is longer than anyone would copy."""
    program = EXAMPLES / f"{name}.py"
    assert len(program.read_text().splitlines()) <= 150
    command = [sys.executable, str(program), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert (out / f"{name}.png").stat().st_size > 10_000
    evidence = json.loads((out / f"{name}.json").read_text())
    assert "--quick" in evidence["command"]
    assert evidence["options"]["quick"] is True
    return evidence["figures"]

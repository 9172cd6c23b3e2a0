"""The README is true: its Python runs in order as one program, its commands run on tiny runs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from contextual_rnn.experiments import reproduce
from contextual_rnn.experiments.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALL = {
    "retrieval": ["--train-samples", "64", "--validation-samples", "32"],
    "decay": ["--samples-per-period", "8", "--epochs", "1"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    lines = "\n".join(blocks("sh")).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] == program]


def test_python_blocks_run_in_order():
    code = "\n".join(blocks("python"))
    assert len(blocks("python")) >= 5
    scope: dict = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["paths"].shape == (32, 10, 25, 1)
    assert scope["states"][0].shape == (1, 320, 128)
    assert scope["output"].shape == (32, 25, 16)
    assert "Ten lines" in README
    assert len(re.search(r"## Ten lines\n+```python\n(.*?)```", README, re.DOTALL)[1].strip().splitlines()) <= 12


def test_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reproduced = []
    monkeypatch.setattr(reproduce, "reproduce", lambda *a, **k: reproduced.append(a) or tmp_path / "report.html")
    found = commands("contextual-rnn")
    assert {line[1] for line in found} == {"reproduce", "train", "sweep", "results", "generate", "report", "info"}
    for _, *arguments in found:
        if arguments[0] in ("train", "sweep"):
            arguments += SMALL[arguments[1]]
        assert main(arguments) == 0, arguments
    assert reproduced, "the preset itself is trained in tests/experiments/test_reproduce.py, in small"


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_targets_exist(words):
    subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_files_that_the_readme_links_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)

"""The README is true and short: its Python runs, and the commands of all pages run on tiny runs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.pages import PAGES, README, ROOT, blocks, run

from contextual_rnn.experiments import reproduce
from contextual_rnn.experiments.cli.main import COMMANDS, main

TEXT = README.read_text()
OTHER_TESTS = {
    "sweeps": "test_docs_sweeps.py",
    "compare": "test_docs_compare.py",
    "own-task": "experiments/test_own_task.py",
}
WITH_COMMANDS = [README, *(page for page in PAGES if page.stem in ("command", "install", "reproduce-and-extend"))]
SMALL = {
    "retrieval": ["--train-samples", "64", "--validation-samples", "32"],
    "decay": ["--samples-per-period", "8", "--epochs", "1"],
    "flows.csv": ["--units", "2", "--learning-rates", "0.01", "--steps", "2", "--seeds", "2", "--workers", "1"],
}


def commands(program: str) -> list[list[str]]:
    lines = "\n".join(block for page in WITH_COMMANDS for block in blocks(page, "sh")).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] == program]


def test_the_commands_of_every_page_have_a_test():
    pages = [page for page in (README, *PAGES) if blocks(page, "sh") and page not in WITH_COMMANDS]
    assert {page.stem for page in pages} == set(OTHER_TESTS)
    assert all(stem in (ROOT / "tests" / test).read_text() for stem, test in OTHER_TESTS.items())


def test_ten_lines_of_code_run():
    assert run(README)["output"].shape == (32, 25, 128)
    assert len(re.search(r"## Ten lines\n+```python\n(.*?)```", TEXT, re.DOTALL)[1].strip().splitlines()) <= 12


def test_it_is_short_and_begins_with_a_picture():
    lines = TEXT.splitlines()
    assert len(lines) <= 130
    (picture, *_) = re.findall(r"^!\[(.+)\]\((docs/\S+)\)$", "\n".join(lines[:30]), re.MULTILINE)
    assert len(picture[0]) > 50, "an alternative text says what is to be seen"
    assert (ROOT / picture[1]).stat().st_size > 10_000


def test_commands_run(tmp_path, monkeypatch, quick_workers):
    monkeypatch.chdir(tmp_path)
    reproduced = []

    def reproduce_one(preset, folder, workers):
        reproduced.append(preset)
        main(["train", "decay", *SMALL["decay"], "--out", str(folder / "decay")])
        return folder / "report.html"

    monkeypatch.setattr(reproduce, "plan", lambda *arguments, **options: "")
    monkeypatch.setattr(reproduce, "reproduce", reproduce_one)
    lines = commands("contextual-rnn")
    assert {line[1] for line in lines} == set(COMMANDS)
    for table in ("flows.csv", "new.csv"):
        rows = (f"b{row // 6},{row * 7 % 5},{row // 6 % 3},{row * 11 % 7}" for row in range(72))
        Path(table).write_text("\n".join(["basin,rain,soil,discharge", *rows]))
    for _, *arguments in lines:
        if arguments[0] in ("train", "sweep", "compare"):
            arguments += SMALL[arguments[1]]
        assert main(arguments) == 0, arguments
    assert reproduced, "the preset itself is trained in tests/experiments/test_reproduce.py, in small"


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_targets_exist(words):
    subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_files_and_sections_that_the_readme_links_exist():
    targets = [*re.findall(r"\]\(([^)]+)\)", TEXT), *re.findall(r'src="([^"]+)"', TEXT)]
    links = [target.partition("#") for target in targets if "://" not in target]
    assert links
    assert all((ROOT / path).exists() for path, _, _ in links)
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", TEXT, re.MULTILINE)}
    assert {place for path, _, place in links if not path} <= headings

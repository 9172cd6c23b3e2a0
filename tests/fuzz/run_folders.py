"""Damaged folders of runs beside a sound one: the command line names the file and goes on, without a traceback."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import random
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.calls import OURS
from tests.fuzz.outcome import Outcome

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.runs.folder import CONFIG

TINY = {
    "retrieval": ["--epochs", "1", "--train-samples", "8", "--validation-samples", "4", "--units", "4", "--pairs", "1"],
    "decay": ["--epochs", "1", "--samples-per-period", "2", "--units", "3", "--context-units", "2"],
}
REPORTS = 8  # a report, which draws, of every so many folders


def damage_of() -> Callable[[Path, random.Random], str] | None:
    """`damage(folder, rng)` of damaged_runs.py, which damages one folder and says how."""
    if importlib.util.find_spec("tests.fuzz.damaged_runs") is None:
        return None
    return importlib.import_module("tests.fuzz.damaged_runs").damage


@functools.cache
def _sound() -> dict[str, Path]:
    """A finished run of each task, trained once a process."""
    runs = {}
    for task, options in TINY.items():
        folder = Path(tempfile.mkdtemp(prefix="contextual-rnn-run-", dir=os.getcwd())) / task
        assert _quietly(["train", task, *options, "--out", str(folder)])[0] == 0
        runs[task] = folder
    return runs


def _quietly(arguments: list[str]) -> tuple[int, str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = main(arguments)
    return status, output.getvalue()


def run(seed: str, number: int) -> Outcome:
    """Damage a copy of a run beside a sound one, and read both."""
    rng, damage = random.Random(f"{seed}/{number}"), damage_of()
    assert damage is not None, "tests/fuzz/damaged_runs.py is not there"
    sound = _sound()
    task, alone = rng.choice(list(TINY)), rng.random() < 0.2
    command = "report" if number % REPORTS == 0 else "results"
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as temporary:
        warnings.simplefilter("ignore")
        folder = Path(temporary)
        if not alone:
            shutil.copytree(sound[rng.choice(list(TINY))], folder / "good")
        shutil.copytree(sound[task], folder / "bad")
        before = {path.name for path in (folder / "bad").iterdir()}
        how = f"{task}, {damage(folder / 'bad', rng)}" + (", alone" if alone else "")
        try:
            status, text = _quietly([command, str(folder)])
        except BaseException as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
            place = f"{os.path.relpath(frames[-1].filename, OURS)}:{frames[-1].name}" if frames else ""
            message = " ".join(str(error).split())[:300]
            return Outcome(command, how, "finding", type(error).__name__, place, message)
        return _judged(command, how, status, text, folder, before, alone)


def _judged(command: str, how: str, status: int, text: str, folder: Path, files: set[str], alone: bool) -> Outcome:
    message = " ".join(text.split())[-300:]
    if "Traceback" in text:
        return Outcome(command, how, "finding", "traceback", "", message)
    if status and not alone:
        return Outcome(command, how, "finding", "gave up", "", message)
    if status or "left out" in text:
        named = any(f"bad/{name}" in text or f"bad{os.sep}{name}" in text for name in files)
        named = named or f"a folder with {CONFIG}), got {folder / 'bad'}" in text  # of the file that is not there
        if not named:
            return Outcome(command, how, "finding", "without the file's name", "", message)
        return Outcome(command, how, "refused", "", "", message)
    return Outcome(command, how, "right")

"""The name of the command, as the user can type it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from contextual_rnn.experiments.config import named_file

NAME = "contextual-rnn"


def program() -> str:
    """`contextual-rnn` where the shell finds it, else the path by which it was started, as `make` does."""
    started = Path(sys.argv[0])
    return shlex.quote(str(started)) if started.stem == NAME and not shutil.which(NAME) else NAME


def print_answer(sentences: Sequence[str]) -> None:
    """An empty line and the sentences, a command in them as the user can type it."""
    if sentences:
        print("", *(sentence.replace(f"{NAME} ", f"{program()} ") for sentence in sentences), sep="\n")


def report_command(place: Path | str, tasks_of_runs: Iterable[str]) -> str:
    """The command that writes the report of the runs at `place`, with the file of a task that was named by one."""
    files = [file for task in dict.fromkeys(tasks_of_runs) if (file := named_file(task))]
    return f"{program()} report {shlex.join([*files, str(place)])}"

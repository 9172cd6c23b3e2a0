"""The console command `contextual-rnn`.

PyTorch takes seconds to import, so `--help` does not import it: a command imports in `run` what it runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import operator
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import version
from typing import Annotated, Any

import tyro

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.cli.compare import Compare, Predict
from contextual_rnn.experiments.cli.generate import Generate
from contextual_rnn.experiments.cli.info import Info
from contextual_rnn.experiments.cli.report import Report
from contextual_rnn.experiments.cli.reproduce import Reproduce
from contextual_rnn.experiments.cli.results import Results
from contextual_rnn.experiments.cli.sweep import Sweep, SweepOptions
from contextual_rnn.experiments.cli.train import Train, TrainOptions
from contextual_rnn.experiments.cli.words import REGISTRY, check_name, one_line
from contextual_rnn.experiments.config import task_of_file, tasks
from contextual_rnn.experiments.config.registry import MODULES

DESCRIPTION = "Recurrent networks that start from something better than zeros: train, reproduce, generate."
FIRST_STEPS = """Recurrent networks that start from something better than zeros. Three things to try:

  contextual-rnn reproduce --open   train the paper's experiments in minutes, and open the report in a browser
  contextual-rnn train decay        train one model into runs/decay-normal-seed0
  contextual-rnn info               show versions, devices and which backends are available

contextual-rnn --help lists all commands, contextual-rnn COMMAND --help the options of one, --version the version."""
# ArithmeticError: the loss of a run is not finite.
REFUSALS = (ValueError, TypeError, ArithmeticError, RuntimeError, OSError, ImportError)

COMMANDS = {
    "reproduce": Reproduce,
    "train": Train,
    "sweep": Sweep,
    "results": Results,
    "report": Report,
    "compare": Compare,
    "predict": Predict,
    "generate": Generate,
    "info": Info,
}

# Their first word may be a Python file with a task: in place of the task's name, or beside a folder of its runs.
TAKE_TASKS, READ_TASKS = ("train", "sweep", "compare"), ("results", "report")


def parse(words: list[str]) -> Any:
    """The command that the words of a command line ask for; exits where they ask for none.

    Raises ValueError for an unknown command or task, and for a file without a task.
    """
    if not words[0].startswith("-"):
        check_name("command", words[0], COMMANDS)
    if len(words) > 1 and words[0] in (*TAKE_TASKS, *READ_TASKS) and words[1].endswith(".py"):
        task = task_of_file(words[1])
        words = [words[0], *([task] if words[0] in TAKE_TASKS else []), *words[2:]]
    if len(words) > 1 and words[0] in ("train", "sweep") and not words[1].startswith("-"):
        check_name("task", words[1], tasks(), " or a FILE.py with one")
    commands: dict[str, Any] = {**COMMANDS, "train": Train[_each(TrainOptions)], "sweep": Sweep[_each(SweepOptions)]}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                _one_of([(name, command, None) for name, command in commands.items()]),
                prog="contextual-rnn",
                description=DESCRIPTION,
                args=words,
                config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
                registry=REGISTRY,
            )
    except SystemExit:
        if text := printed.getvalue():
            print(f"contextual-rnn: {one_line(text)} See contextual-rnn {words[0]} --help", file=sys.stderr)
        raise


def _each(options: Any) -> Any:
    """The options of one task or another."""
    return _one_of([(name, options[entry.config], entry.config.__doc__) for name, entry in tasks().items()])


def _one_of(commands: Iterable[tuple[str, Any, str | None]]) -> Any:
    named = [Annotated[kind, tyro.conf.subcommand(name, description=text)] for name, kind, text in commands]
    return functools.reduce(operator.or_, named)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 with three things to try where there is no command, and for --version; 1 with one line on standard error where one
    is refused; 130 with one line after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words in ([], ["--version"]):
        print(f"contextual-rnn {version('contextual-rnn')}" if words else FIRST_STEPS)
        return 0
    try:
        command = parse(words)
        importlib.import_module("torch")  # here, where a signal ends the process even within native code
        with interrupts.raising():
            interrupts.describe("before it was done")
            return command.run() or 0
    except (KeyboardInterrupt, *REFUSALS) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.requested():  # an error after a signal follows from it
            interrupts.print_line()
            return interrupts.status()
        print(f"contextual-rnn: {_words(error)}{_place(error)}", file=sys.stderr)
        return 1


def _words(error: BaseException) -> str:
    """The message of an error on one line; Python's own, of a file, does not say what was expected."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"path: expected one that can be read or written, got {error.filename}: {error.strerror}"
    return " ".join(str(error).splitlines())


def _place(error: BaseException | None) -> str:
    """Where the file of a task was when the error was raised, as " (FILE, line N)"; empty where none was."""
    while error is not None:
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            if frame.f_globals.get("__name__", "").startswith(MODULES):
                return f" ({frame.f_code.co_filename}, line {line})"
        error = error.__cause__
    return ""

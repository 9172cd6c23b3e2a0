"""The console command `contextual-rnn`.

PyTorch takes seconds to import, so `--help` does not import it: a command imports in `run` what it runs.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import tyro

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.cli.generate import Generate
from contextual_rnn.experiments.cli.info import Info
from contextual_rnn.experiments.cli.report import Report
from contextual_rnn.experiments.cli.reproduce import Reproduce
from contextual_rnn.experiments.cli.results import Results
from contextual_rnn.experiments.cli.sweep import Sweep
from contextual_rnn.experiments.cli.train import Train

Command = (
    Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Results, tyro.conf.subcommand("results")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)

DESCRIPTION = "Recurrent networks that start from something better than zeros: train, reproduce, generate."
FIRST_STEPS = """Recurrent networks that start from something better than zeros. Three things to try:

  contextual-rnn reproduce --open   train the paper's experiments in minutes, and open the report in a browser
  contextual-rnn train decay        train one model into runs/decay-normal-seed0
  contextual-rnn info               show versions, devices and which backends are available

contextual-rnn --help lists all commands, contextual-rnn COMMAND --help the options of one."""
# ArithmeticError: the loss of a run is not finite.
REFUSALS = (ValueError, TypeError, ArithmeticError, RuntimeError, OSError, ImportError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    1 with one line on standard error where a command is refused; 2 with three things to try where there is none; 130
    with one line after Ctrl-C, 143 after SIGTERM.
    """
    if not (sys.argv[1:] if arguments is None else arguments):
        print(FIRST_STEPS, file=sys.stderr)
        return 2
    try:
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            prog="contextual-rnn",
            description=DESCRIPTION,
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
        importlib.import_module("torch")  # here, where a signal ends the process even within native code
        with interrupts.raising():
            interrupts.describe("before it was done")
            return command.run() or 0
    except (KeyboardInterrupt, *REFUSALS) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.requested():  # an error after a signal follows from it
            interrupts.print_line()
            return interrupts.status()
        print(f"contextual-rnn: {error}", file=sys.stderr)
        return 1

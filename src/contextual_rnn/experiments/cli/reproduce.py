"""The command `contextual-rnn reproduce`."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path

from contextual_rnn.experiments.cli.program import print_answer, program
from contextual_rnn.experiments.config import Preset

ABOUT = """\
Does a recurrent network learn better where its first state is not zero? This trains the paper's two experiments
(Wenke and Fleming, 2019), each state beside the zero state:
  retrieval  name the digit that stood beside a letter; the state is learned (free) or made from
             the first letter (context)
  decay      draw a curve from its first value and its period; the state is sampled around what these
             say (normal)"""
NEXT = {
    "quick": "reproduce --preset paper  # the paper's sizes and epochs",
    "paper": "sweep retrieval --start wenke2019 --leaves h+a --grid state=zero,context --seeds 10",
}


@dataclass(frozen=True)
class Reproduce:
    """Train the paper's two experiments for all its states, then write the report."""

    preset: Preset = "quick"
    """quick: minutes. paper: the paper's own sizes and epochs, about ten minutes on two idle cores."""
    out: Path | None = None
    """Folder of the runs; by default runs/reproduce-PRESET. Finished runs in it are kept and not trained again."""
    workers: int | None = None
    """Runs that train side by side; by default one a core."""
    open: bool = False
    """Open the report in a browser."""
    dry_run: bool = False
    """Say what would be trained and how long it would take, and train nothing."""

    def run(self) -> None:
        print(ABOUT, flush=True)  # the estimate takes seconds
        from contextual_rnn._numbers import check_size
        from contextual_rnn.experiments.report.answer import answer
        from contextual_rnn.experiments.reproduce import plan, reproduce
        from contextual_rnn.experiments.runs.folder import read_runs
        from contextual_rnn.experiments.runs.store import out_folder

        folder = self.out or Path("runs") / f"reproduce-{self.preset}"
        workers = None if self.workers is None else check_size("workers", self.workers)
        out_folder(folder)
        print(plan(self.preset, folder, workers=workers), flush=True)
        if self.dry_run:
            return
        report = reproduce(self.preset, folder, workers=workers)
        print(f"report: {report.resolve()}")
        print(f"next: {program()} {NEXT[self.preset]}")
        print_answer(answer(read_runs(folder)))
        if self.open:
            webbrowser.open(report.resolve().as_uri())

"""The command `contextual-rnn reproduce`."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path

from contextual_rnn.experiments.cli.program import program
from contextual_rnn.experiments.config import Preset

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

    def run(self) -> None:
        from contextual_rnn.experiments.report.answer import answer
        from contextual_rnn.experiments.reproduce import plan, reproduce
        from contextual_rnn.experiments.runs.folder import read_runs

        folder = self.out or Path("runs") / f"reproduce-{self.preset}"
        print(plan(self.preset, folder, workers=self.workers), flush=True)
        report = reproduce(self.preset, folder, workers=self.workers)
        print(f"report: {report.resolve()}")
        print(f"next: {program()} {NEXT[self.preset]}")
        print("", *answer(read_runs(folder)), sep="\n")
        if self.open:
            webbrowser.open(report.resolve().as_uri())

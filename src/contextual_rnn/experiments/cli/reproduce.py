"""The command `contextual-rnn reproduce`."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path

from contextual_rnn.experiments.config import Preset


@dataclass(frozen=True)
class Reproduce:
    """Train the paper's two experiments for all its states, then write the report."""

    preset: Preset = "quick"
    """quick: minutes. paper: the paper's own sizes and epochs, about ten on two idle cores."""
    out: Path | None = None
    """Folder of the runs; by default runs/reproduce-PRESET. Finished runs in it are kept and not trained again."""
    workers: int | None = None
    """Runs that train side by side; by default one a core."""
    open: bool = False
    """Open the report in a browser."""

    def run(self) -> None:
        from contextual_rnn.experiments.reproduce import reproduce

        report = reproduce(self.preset, self.out or Path("runs") / f"reproduce-{self.preset}", workers=self.workers)
        print(f"report: {report.resolve()}")
        if self.open:
            webbrowser.open(report.resolve().as_uri())

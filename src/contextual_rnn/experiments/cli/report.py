"""The command `contextual-rnn report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contextual_rnn.experiments.cli.left_out import LeftOut


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML report of every run below a folder, or of published results such as results/.

    It is report.html in the folder; beside the report of a comparison it is runs.html.
    """

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Folder with runs or with published results, or its URL."""

    def run(self) -> None:
        from contextual_rnn.experiments.report.from_weights import FILES
        from contextual_rnn.experiments.report.gather import SUMMARY
        from contextual_rnn.experiments.report.html import ANSWER, write_report
        from contextual_rnn.experiments.runs import store

        place, left_out = store.place_of(self.folder), LeftOut()
        with left_out, store.readable(place, (*store.READ, ANSWER), left_out) as folder:
            left_out.copy_of(place, folder)
            report = write_report(folder, left_out)
            store.give_back(folder, [report.name, SUMMARY, *FILES], place)
        print(f"report: {report.resolve() if isinstance(place, Path) else store.below(place, report.name)}")

"""The command `contextual-rnn results`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contextual_rnn.experiments.cli.left_out import LeftOut
from contextual_rnn.experiments.cli.program import print_answer, report_command


@dataclass(frozen=True)
class Results:
    """Print medians over seeds with intervals of the finished runs below a folder, and write Parquet, a row a run.

    A folder of published results such as results/ is read too.
    """

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Folder with runs, or its URL; more may be written there meanwhile."""
    out: Path | None = None
    """Where to write: a .parquet file; by default results.parquet in the folder."""

    def run(self) -> None:
        from contextual_rnn.experiments.report.answer import answer
        from contextual_rnn.experiments.runs import store
        from contextual_rnn.experiments.runs.folder import CONFIG, METRICS, RESULT
        from contextual_rnn.experiments.runs.published import read_results
        from contextual_rnn.experiments.runs.summary import PARQUET, write_parquet
        from contextual_rnn.experiments.stats.finals import table

        if self.out is not None:
            store.out_file(self.out, (".parquet", ".pq"))
        place, left_out = store.place_of(self.folder), LeftOut()
        with left_out, store.readable(place, (CONFIG, METRICS, RESULT), left_out) as folder:
            left_out.copy_of(place, folder)
            runs = read_results(folder, left_out)
            print(table(runs))
            if isinstance(place, str):
                runs = [dataclasses.replace(run, folder=run.folder.relative_to(folder)) for run in runs]
            results = self.out or store.below(place, PARQUET)
            try:
                write_parquet(runs, self.out or folder / PARQUET)
                if self.out is None:
                    store.give_back(folder, [PARQUET], place)
            except ImportError as error:
                if self.out is not None:
                    raise
                results = f"not written: {error}"
        print(f"results: {results}")
        print(f"next: {report_command(place, [run.task for run in runs])}")
        print_answer(answer(runs))

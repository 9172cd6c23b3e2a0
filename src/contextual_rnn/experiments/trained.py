"""What a report makes of trained weights: calibration, diagnostics, playground; as JSON, kept without the weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from contextual_rnn.experiments.calibration import calibration
from contextual_rnn.experiments.comparison import STARTS, Group
from contextual_rnn.experiments.playground import playground
from contextual_rnn.experiments.report_tables import TASKS
from contextual_rnn.experiments.results import WEIGHTS, Run, config_to_dict, write_json
from contextual_rnn.experiments.run_diagnostics import diagnose_run, numbers_of

CALIBRATION, DIAGNOSTICS, PLAYGROUND = "calibration.json", "diagnostics.json", "playground.json"


@dataclasses.dataclass(frozen=True)
class Trained:
    """Rows of `calibration`; a row a diagnosed run; what the playground shows, or None. `figures` of the diagnoses."""

    calibration: list[dict[str, Any]]
    diagnostics: list[dict[str, Any]]
    playground: dict[str, Any] | None
    figures: list[Figure] = dataclasses.field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Into `folder`, what there is of it."""
        if self.calibration:
            write_json(folder / CALIBRATION, self.calibration)
        if self.diagnostics:
            write_json(folder / DIAGNOSTICS, self.diagnostics)
        if self.playground is not None:
            write_json(folder / PLAYGROUND, self.playground)

    @classmethod
    def read(cls, folder: Path) -> Trained:
        """What `write` has left in `folder`."""
        found = {
            name: json.loads((folder / name).read_text()) if (folder / name).is_file() else None
            for name in (CALIBRATION, DIAGNOSTICS, PLAYGROUND)
        }
        return cls(found[CALIBRATION] or [], found[DIAGNOSTICS] or [], found[PLAYGROUND])


def trained(decay: Sequence[Group], groups: Sequence[Group]) -> Trained:
    """From the weights that are there: calibration of `decay`, diagnostics of one run of each kind in `groups`."""
    diagnosed = [_diagnosed(run) for run in _first_of_each(groups)]
    run = normal_run([run for group in decay for run in group.runs if (run.folder / WEIGHTS).is_file()])
    shown = None if run is None else {"source": source(run), **playground(run)}
    return Trained(calibration(decay), [row for row, _ in diagnosed], shown, [figure for _, figure in diagnosed])


def normal_run(runs: Sequence[Run]) -> Run | None:
    """The normal run of the lowest seed, a finished one where there is one; of several kinds the paper's."""
    normal = [run for run in runs if run.config.state == "normal"]
    return min(normal, key=lambda run: (not run.converged, changed(run), run.config.seed), default=None)


def changed(run: Run) -> int:
    """How many options but the seed are not at their defaults."""
    return sum(
        getattr(run.config, field.name) != field.default
        for field in dataclasses.fields(run.config)
        if field.name not in ("seed", "epochs")
    )


def source(run: Run) -> str:
    """Which run a picture is of."""
    return f"Run {run.folder.name}, seed {run.config.seed}{', unfinished' if run.result is None else ''}."


def _first_of_each(groups: Sequence[Group]) -> list[Run]:
    """Of every task, start and state but zero, the run with weights that converged of the lowest seed."""
    found: dict[tuple[str, ...], Run] = {}
    for group in groups:
        for run in sorted(group.runs, key=lambda run: (changed(run), run.config.seed)):
            kind = (run.task, getattr(run.config, "start", ""), run.config.state)
            if run.converged and run.config.state != "zero" and (run.folder / WEIGHTS).is_file():
                found.setdefault(kind, run)
    return list(found.values())


def _diagnosed(run: Run) -> tuple[dict[str, Any], Figure]:
    diagnosis = diagnose_run(run)
    start = STARTS.get(getattr(run.config, "start", ""))
    words = [TASKS[run.task], start and start[0].lower() + start[1:], f"{run.config.state} state"]
    title = ", ".join(filter(None, words))
    caption = f"{source(run)} {'; '.join(diagnosis.findings())}."
    row = {"title": title, "run": config_to_dict(run.config), **diagnosis.as_dict(), "row": numbers_of(diagnosis)}
    return {**row, "caption": caption}, diagnosis.plot()

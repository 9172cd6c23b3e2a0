"""What a report computes from trained weights: calibration, diagnostics, playground. Saved as JSON, without weights."""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from contextual_rnn.diagnostics import Diagnosis
from contextual_rnn.experiments.config import BASELINE, PanelConfig, config_to_dict
from contextual_rnn.experiments.report.playground import playground
from contextual_rnn.experiments.report.tables import DIAGNOSIS, numbers_of
from contextual_rnn.experiments.runs.folder import Refused, Run, has_weights, raise_it, write_json
from contextual_rnn.experiments.runs.json_file import check, damaged, parse, read_text
from contextual_rnn.experiments.runs.weights import load_task
from contextual_rnn.experiments.stats.groups import Group, changed
from contextual_rnn.experiments.studies.calibration import calibration
from contextual_rnn.experiments.tasks.decay import VALIDATION_PERIODS
from contextual_rnn.experiments.tasks.networks import own_files

Result = TypeVar("Result")
FILES = CALIBRATION, DIAGNOSTICS, PLAYGROUND = "calibration.json", "diagnostics.json", "playground.json"


@dataclasses.dataclass(frozen=True)
class Trained:
    """Rows of `calibration`, a row for each diagnosed run, the playground's data or None, and the diagnoses.

    What was read from JSON has no diagnoses.
    """

    calibration: list[dict[str, Any]]
    diagnostics: list[dict[str, Any]]
    playground: dict[str, Any] | None
    diagnoses: list[Diagnosis] = dataclasses.field(default_factory=list[Diagnosis])

    def write(self, folder: Path) -> None:
        """Write the parts that are not empty into `folder`."""
        for name, part in zip(FILES, (self.calibration, self.diagnostics, self.playground), strict=True):
            if part:
                write_json(folder / name, part)

    @classmethod
    def read(cls, folder: Path, refused: Refused = raise_it) -> Trained:
        """Read what `write` wrote into `folder`; the error of a damaged file, which names it, goes to `refused`."""
        parts: dict[str, Any] = {}
        for name, (shape, check_lengths) in _SHAPES.items():
            path = folder / name
            try:
                if os.path.lexists(path):
                    value = parse(read_text(path), path)
                    check(value, shape, path)
                    check_lengths(value, path)
                    parts[name] = value
            except ValueError as error:
                refused(error)
        return cls(parts.get(CALIBRATION, []), parts.get(DIAGNOSTICS, []), parts.get(PLAYGROUND))


_CALIBRATION = {
    "label": str,
    "options": {},
    "seeds": [float],
    "levels": [float],
    "observed": [[float]],
    "two_deviations": [float],
    "two_deviations_median": ([float], None),
    "by_period": {str: float},
    "final": {str: [float]},
    "epochs": {str: [float]},
    "commands": [str],
}
_DIAGNOSIS = {"title": str, "caption": str, "row": [str]}
_NUMBERS = dict.fromkeys(("alpha", "beta", "total_time", "low", "step"), float)
_LISTS = {name: [float] for name in ("periods", "initials", "trained", "held_out")}
_PLAYGROUND = {**_NUMBERS, **_LISTS, "samples": int, "band_samples": int, "steps": int, "curves": str, "source": str}


def _check_calibration(rows: list[dict[str, Any]], path: Path) -> None:
    for index, row in enumerate(rows):
        seeds, median = len(row["seeds"]), row["two_deviations_median"]
        lengths = [len(values) for values in (row["observed"], row["two_deviations"], *row["final"].values())]
        if not seeds or any(length != seeds for length in lengths) or len(row["by_period"]) != len(VALIDATION_PERIODS):
            raise damaged(path, f"a value for each seed and period in row {index + 1}", "others")
        if any(len(each) != len(row["levels"]) for each in row["observed"]) or (
            median is not None and len(median) != 3
        ):
            raise damaged(path, f"a value for each level, and a median of 3, in row {index + 1}", "others")


def _check_diagnoses(rows: list[dict[str, Any]], path: Path) -> None:
    for index, row in enumerate(rows):
        if len(row["row"]) != len(DIAGNOSIS) - 1:
            raise damaged(path, f"{len(DIAGNOSIS) - 1} texts in row {index + 1}", str(len(row["row"])))


def _check_playground(grid: dict[str, Any], path: Path) -> None:
    try:
        raw = base64.b64decode(grid["curves"], validate=True)
    except ValueError as error:
        raise damaged(path, "curves in base64", str(error)) from error
    size = 2 * len(grid["periods"]) * len(grid["initials"]) * (2 + grid["samples"]) * grid["steps"]
    if len(raw) != size or grid["samples"] < 1:
        raise damaged(path, f"curves of {size} bytes", f"{len(raw)}")


_SHAPES: dict[str, tuple[Any, Callable[[Any, Path], None]]] = {
    CALIBRATION: ([_CALIBRATION], _check_calibration),
    DIAGNOSTICS: ([_DIAGNOSIS], _check_diagnoses),
    PLAYGROUND: (_PLAYGROUND, _check_playground),
}


def trained(sampled: Sequence[Group], groups: Sequence[Group], refused: Refused = raise_it) -> Trained:
    """Compute from runs that have weights: calibration and playground of `sampled`, whose models generate trajectories,
    and diagnoses of one run of each kind in `groups`.

    Where weights are damaged, the error, which names the file, goes to `refused`, and the other runs are used.
    """

    def attempt(compute: Callable[..., Result], *arguments: Any) -> Result | None:
        try:
            return compute(*arguments)
        except ValueError as error:
            refused(error)
            return None

    rows = calibration(sampled, refused)
    diagnosed = [pair for kind in _first_of_each(groups) if (pair := attempt(_diagnosed, *kind)) is not None]
    run = normal_run([run for group in sampled for run in group.runs if has_weights(run)])
    grid = None if run is None else attempt(playground, run)
    data = None if run is None or grid is None else {"source": source(run), **grid}
    return Trained(rows, [row for row, _ in diagnosed], data, [diagnosis for _, diagnosis in diagnosed])


def normal_run(runs: Sequence[Run]) -> Run | None:
    """A run of the normal state: finished before unfinished, then nearest to the defaults, then lowest seed."""
    normal = [run for run in runs if run.config.state == "normal"]
    return min(normal, key=lambda run: (not run.converged, changed(run), run.config.seed), default=None)


def source(run: Run) -> str:
    """The name of the run that a picture shows."""
    return f"Run {run.folder.name}, seed {run.config.seed}{', unfinished' if run.result is None else ''}."


def _first_of_each(groups: Sequence[Group]) -> list[tuple[Run, str]]:
    """For each task, title and state but zero: the converged run with weights nearest to the defaults, and its name."""
    runs: dict[str, Run] = {}
    for group in groups:
        titles = [group.entry.title, *(title[:1].lower() + title[1:] for title in group.titles())]
        for run in sorted(group.runs, key=lambda run: (changed(run), run.config.seed)):
            if run.converged and run.config.state != BASELINE and has_weights(run) and not _names_a_file(run):
                runs.setdefault(", ".join([*titles, f"{run.config.state} state"]), run)
    return [(run, name) for name, run in runs.items()]


def _names_a_file(run: Run) -> bool:
    """Whether a Python file would run with the model: a folder from elsewhere may name any."""
    return isinstance(run.config, PanelConfig) and bool(own_files(run.config.network))


def _diagnosed(run: Run, title: str) -> tuple[dict[str, Any], Diagnosis] | None:
    diagnosis = load_task(run).diagnose()
    if diagnosis is None:
        return None
    caption = f"{source(run)} {'; '.join(diagnosis.findings())}."
    row = {"title": title, "run": config_to_dict(run.config), **diagnosis.as_dict(), "row": numbers_of(diagnosis)}
    return {**row, "caption": caption}, diagnosis

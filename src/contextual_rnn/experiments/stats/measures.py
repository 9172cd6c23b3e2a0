"""The measures of a run, and which runs count, for every table, picture and sentence about several seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from contextual_rnn.experiments.runs.folder import Run


@dataclass(frozen=True)
class Measure:
    """A number of a finished run, and whether more of it is better."""

    name: str
    of: Callable[[Run], float]
    more_is_better: bool


def final(metric: str) -> Callable[[Run], float]:
    """A metric of the last epoch; nan where the run has not finished or diverged."""
    return lambda run: run.result["final"].get(metric, math.nan) if run.result is not None else math.nan


MEASURES: dict[str, tuple[Measure, ...]] = {
    "retrieval": (
        Measure("validation_accuracy", final("validation_accuracy"), True),
        Measure("epochs_to_95", lambda run: epochs_to(run, 0.95), False),
        Measure("epochs_to_99", lambda run: epochs_to(run, 0.99), False),
    ),
    "decay": (
        Measure("validation_squared_error", final("validation_squared_error"), False),
        Measure("free_running_squared_error", final("free_running_squared_error"), False),
    ),
}


def one_of_each(runs: Iterable[Run]) -> list[Run]:
    """A run for each state and seed: one that converged, else one that diverged, else the longest; then the first."""
    best: dict[tuple[str, int], Run] = {}
    for run in runs:
        key = run.config.state, run.config.seed
        if key not in best or _rank(run) > _rank(best[key]):
            best[key] = run
    return list(best.values())


def _rank(run: Run) -> tuple[bool, bool, int]:
    return run.converged, run.result is not None, len(run.metrics)


def values_by_seed(runs: Iterable[Run], measure: Measure) -> dict[int, float]:
    """The measure of every run of one state that has it, by seed; runs that diverged or are unfinished do not count."""
    values = {run.config.seed: measure.of(run) for run in one_of_each(runs) if run.converged}
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def epochs_to(run: Run, threshold: float, metric: str = "validation_accuracy") -> float:
    """The first epoch after which `metric` is at least `threshold`; infinite where it never is."""
    return next((line["epoch"] for line in run.metrics if line.get(metric, -math.inf) >= threshold), math.inf)

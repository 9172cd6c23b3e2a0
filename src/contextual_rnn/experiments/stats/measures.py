"""Which runs count, for every table, picture and sentence about several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real

from contextual_rnn.experiments.config import Measure
from contextual_rnn.experiments.runs.folder import Run


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


def value_of(measure: Measure, run: Run) -> float:
    """The measure of a run that has finished. Raises ValueError, which names task, measure and run, for no number."""
    assert run.result is not None
    try:
        value = measure.of(run.metrics, run.result["final"])
        received = None if isinstance(value, Real) and not isinstance(value, bool) else f"a {type(value).__name__}"
    except Exception as error:
        raise _no_number(measure, run, f"{type(error).__name__}: {error}") from error
    if received is not None:
        raise _no_number(measure, run, received)
    return value if isinstance(value, int) else float(value)


def _no_number(measure: Measure, run: Run, received: str) -> ValueError:
    expected = f"a number from this measure of {run.task} for {run.folder}"
    return ValueError(f"{measure.name}: expected {expected}, got {received}")


def values_by_seed(runs: Iterable[Run], measure: Measure) -> dict[int, float]:
    """The measure of every run of one state that has it, by seed; runs that diverged or are unfinished do not count."""
    values = {
        run.config.seed: value_of(measure, run) for run in one_of_each(runs) if run.converged and run.result is not None
    }
    return {seed: value for seed, value in values.items() if not math.isnan(value)}

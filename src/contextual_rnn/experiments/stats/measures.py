"""Which runs count, for every table, picture and sentence about several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable

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


def values_by_seed(runs: Iterable[Run], measure: Measure) -> dict[int, float]:
    """The measure of every run of one state that has it, by seed; runs that diverged or are unfinished do not count."""
    values = {
        run.config.seed: measure.of(run.metrics, run.result["final"])
        for run in one_of_each(runs)
        if run.converged and run.result is not None
    }
    return {seed: value for seed, value in values.items() if not math.isnan(value)}

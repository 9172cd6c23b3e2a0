"""Which runs a comparison has: the same small search for every arm, then every arm with several seeds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextual_rnn._numbers import check_size
from contextual_rnn.experiments.config import BASELINE, Config, entry_of
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.measures import value_of
from contextual_rnn.experiments.sweeps.sweep import named


@dataclass(frozen=True)
class Plan:
    """A comparison of `arms`, values of the option `state`, which include zero.

    Every arm is trained with every combination of the values in `grid` and seed 0. Its own best combination, by the
    task's first measure on the validation set, is then trained with `seeds` seeds. `controls` are arms that are
    compared and never chosen.

    Raises ValueError for no zero arm, no arm beside the controls, and options that the task does not have.
    """

    base: Config
    arms: tuple[str, ...]
    grid: Mapping[str, Sequence[Any]]
    seeds: int
    controls: tuple[str, ...] = (BASELINE,)

    def __post_init__(self) -> None:
        check_size("seeds", self.seeds)
        if BASELINE not in self.arms or not self.candidates:
            raise ValueError(f"arms: expected {BASELINE} and at least one other state, got {', '.join(self.arms)}")
        if not entry_of(self.base).measures:
            raise ValueError(f"task: expected one with a measure to choose by, got {entry_of(self.base).name}")
        options = {option.name for option in dataclasses.fields(self.base)} - {"state", "seed"}
        if unknown := sorted(set(self.grid) - options):
            raise ValueError(f"grid: expected some of {', '.join(sorted(options))}, got {', '.join(unknown)}")

    @property
    def candidates(self) -> list[str]:
        """The arms that the best one is chosen from."""
        return [arm for arm in self.arms if arm not in self.controls and arm != BASELINE]

    def search(self) -> dict[str, Config]:
        """The runs of the search, by the names of their folders; none where there is nothing to choose."""
        combinations = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        if len(combinations) < 2:
            return {}
        return named(self._config(arm, seed=0, **options) for arm in self.arms for options in combinations)

    def chosen(self, runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
        """Each arm's own best options, from the finished runs of the search.

        Raises ValueError, which names the arm, where none of its runs converged.
        """
        runs = list(runs)
        if not runs:
            return {arm: {name: values[0] for name, values in self.grid.items()} for arm in self.arms}
        chosen: dict[str, dict[str, Any]] = {}
        for arm in self.arms:
            of_arm = [run for run in runs if run.config.state == arm]
            counted = [run for run in of_arm if math.isfinite(validation_error(run))]
            if not counted:
                raise ValueError(f"{arm}: expected a run that converges, got {len(of_arm)} that diverged")
            best = min(counted, key=validation_error).config
            chosen[arm] = {name: getattr(best, name) for name in self.grid}
        return chosen

    def final(self, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Config]:
        """The runs that are compared, by the names of their folders."""
        return named(self._config(arm, seed, **chosen[arm]) for arm in self.arms for seed in range(self.seeds))

    def _config(self, arm: str, seed: int, **options: Any) -> Config:
        return dataclasses.replace(self.base, **{"state": arm, "seed": seed, **options})


def validation_error(run: Run) -> float:
    """The task's first measure, of which less is better; infinite for a run that diverged or has not finished.

    Raises ValueError where it is not a number.
    """
    if not run.converged or run.result is None:
        return math.inf
    measure = entry_of(run.config).measures[0]
    value = value_of(measure, run)
    if math.isnan(value):
        raise ValueError(f"{measure.name}: expected a number to choose by for {run.folder}, got nan")
    return -value if measure.more_is_better else value

"""The runs of a comparison, trained by `sweep`, and the errors that they make on the test set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from contextual_rnn.diagnostics import Diagnosis
from contextual_rnn.experiments.compare.plan import Plan, validation_error
from contextual_rnn.experiments.config import Config, task_name
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.folder import Run, read_run
from contextual_rnn.experiments.runs.store import Place
from contextual_rnn.experiments.runs.weights import load_task
from contextual_rnn.experiments.stats.verdict import Errors, best_of
from contextual_rnn.experiments.sweeps.sweep import Progress, sweep
from contextual_rnn.experiments.training.seeding import global_generators
from contextual_rnn.experiments.training.task import Task, Tested
from contextual_rnn.spec.steps import evaluation

RUNS = "runs"

Watch = Callable[[str, Progress], None]  # called with "search" or "compare"


@dataclass(frozen=True)
class Arm:
    """One arm's finished runs, by seed, and what they did on the test set.

    `errors` and the arrays of `scores` have a row for each of `seeds`; `diagnosis` is that of the run with the least
    validation error, where the task has one.
    """

    name: str
    runs: Mapping[int, Run]
    seeds: tuple[int, ...]
    errors: Errors
    scores: Mapping[str, numpy.ndarray]
    groups: tuple[str, ...] | None
    diagnosis: Diagnosis | None

    @property
    def validation(self) -> float:
        """Mean validation error over the seeds."""
        return float(numpy.mean([validation_error(self.runs[seed]) for seed in self.seeds]))

    @property
    def best_run(self) -> Run:
        """The run with the least validation error."""
        return _best(self.runs, self.seeds)


def _best(runs: Mapping[int, Run], seeds: Iterable[int]) -> Run:
    return runs[int(best_of({str(seed): validation_error(runs[seed]) for seed in seeds}))]


def train_all(plan: Plan, folder: Place, executor: Executor, watch: Watch = lambda stage, progress: None) -> list[str]:
    """Train the search, then the runs that are compared, below `folder`; return the names of the latter.

    Finished runs are kept. Raises RuntimeError, with the first error, where a run fails.
    """
    place = store.below(folder, RUNS)
    search = plan.search()
    _train("search", search, place, executor, watch)
    with store.readable(place) as copy:
        final = plan.final(plan.chosen(read_run(copy / name) for name in search))
    _train("compare", final, place, executor, watch)
    return list(final)


def _train(stage: str, configs: Mapping[str, Config], place: Place, executor: Executor, watch: Watch) -> None:
    if not configs:
        return
    progress = sweep(configs, place, executor, watch=functools.partial(watch, stage))
    if progress.failed:
        name, reason = next(iter(progress.reasons.items()))
        failed = f"{len(progress.failed)} of {len(configs)} runs failed"
        raise RuntimeError(f"{failed}: {store.below(place, name)}: {reason}")


def tested_arms(plan: Plan, names: list[str], folder: Path) -> dict[str, Arm]:
    """Every arm on the test set, which is read here for the first time; `folder` holds the runs `names`.

    Only seeds whose runs of every arm converged count. Raises ValueError where there is none, and for a task without
    test data.
    """
    runs: dict[str, dict[int, Run]] = {arm: {} for arm in plan.arms}
    for name in names:
        run = read_run(folder / name)
        runs[run.config.state][run.config.seed] = run
    seeds = tuple(seed for seed in range(plan.seeds) if all(of_arm[seed].converged for of_arm in runs.values()))
    if not seeds:
        raise ValueError("seeds: expected one for which the runs of every arm converge, got none")
    return {arm: _tested(arm, of_arm, seeds) for arm, of_arm in runs.items()}


def _tested(name: str, runs: Mapping[int, Run], seeds: tuple[int, ...]) -> Arm:
    best = _best(runs, seeds)
    results: list[Tested] = []
    diagnosis = None
    for seed in seeds:
        task = load_task(runs[seed])
        results.append(test_of(task, runs[seed].config))
        if runs[seed] is best:
            with global_generators("diagnosis", seed):
                diagnosis = task.diagnose()
    first = results[0]
    if any(_examples(tested) != _examples(first) for tested in results):
        raise ValueError(f"test: expected the same examples and scores for every seed, got others for {name}")
    errors = Errors(numpy.stack([_matrix(tested.errors.numpy()) for tested in results]), first.series)
    scores = {name: numpy.stack([_matrix(each.scores[name].numpy()) for each in results]) for name in first.scores}
    groups = None if first.groups is None else tuple(first.groups)
    return Arm(name, runs, seeds, errors, scores, groups, diagnosis)


def _examples(tested: Tested) -> tuple[object, ...]:
    return tested.errors.shape, list(tested.series), sorted(tested.scores)


def test_of(task: Task[Any], config: Config) -> Tested:
    """The errors of a task on its test data. Raises ValueError where it has none, TypeError for another result."""
    with evaluation(task.model), global_generators("test", config.seed):
        tested = task.test()
    name = task_name(config)
    if tested is None:
        raise ValueError(f"task: expected one with test data, got {name}, whose test() returns None")
    if not isinstance(tested, Tested):
        raise TypeError(f"test: expected a Tested from {name}, got {type(tested).__name__}")
    return tested


def _matrix(errors: numpy.ndarray) -> numpy.ndarray:
    """(examples, steps); an error of a whole sequence is one step."""
    return errors[:, None] if errors.ndim == 1 else errors

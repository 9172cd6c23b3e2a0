"""The command `contextual-rnn sweep`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import Config, DecayConfig, RetrievalConfig, task_name
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.folder import CONFIG, RESULT, Run, finished
from contextual_rnn.experiments.runs.store import Place
from contextual_rnn.experiments.runs.summary import summary, table
from contextual_rnn.experiments.runs.train import CHECKPOINT_SECONDS
from contextual_rnn.experiments.stats.measures import MEASURES
from contextual_rnn.experiments.sweeps import sweep as sweeps
from contextual_rnn.experiments.sweeps.estimate import estimated_seconds
from contextual_rnn.experiments.sweeps.grid import combinations, grid_from_file, grid_from_words
from contextual_rnn.experiments.sweeps.workers import dask_workers, local_workers
from contextual_rnn.experiments.training.threads import cores


@dataclass(frozen=True, kw_only=True)
class _Options:
    grid: tuple[str, ...] = ()
    """Options and their values: state=zero,context units=20,50. Every combination is a run."""
    grid_file: Path | None = None
    """The same from a TOML file: a line an option, state = ["zero", "context"]."""
    seeds: int | None = None
    """Run every combination with the seeds 0 to N - 1."""
    out: str | None = None
    """Folder of the sweep or its URL (s3://bucket/sweep); by default runs/sweep-TASK. Finished runs in it are skipped,
    begun ones go on."""
    workers: int | None = None
    """Processes on this machine; by default as many as fill its cores with the threads of a run, or of a stack."""
    stack: int = 1
    """Give every process so many seeds at once, which it trains on threads of its own."""
    scheduler: str | None = None
    """Train on the workers of a Dask scheduler, such as tcp://host:8786, that share the folder."""
    retries: int = 2
    """How often a run goes on elsewhere whose process was lost; a Dask scheduler has its own number."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Seconds between checkpoints."""
    dry_run: bool = False
    """List the runs and how long they will take, and train none."""
    json: bool = False
    """Print the end as JSON."""


@dataclass(frozen=True, kw_only=True)
class SweepRetrieval(_Options):
    """Associative retrieval with fast weights."""

    config: Annotated[RetrievalConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class SweepDecay(_Options):
    """Linear cosine decay with an LSTM."""

    config: Annotated[DecayConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Sweep:
    """Train every combination of some options and seeds, side by side, here or on a cluster.

    Options not in the grid are as given. Killed or interrupted, the same command goes on. The exit status is 1 where
    a run failed; a run that diverged has not; 130 after Ctrl-C, 143 after SIGTERM.
    """

    task: Annotated[
        Annotated[SweepRetrieval, tyro.conf.subcommand("retrieval")]
        | Annotated[SweepDecay, tyro.conf.subcommand("decay")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        options = self.task
        folder = store.place_of(options.out or f"runs/sweep-{task_name(options.config)}")
        grid = grid_from_file(options.grid_file) if options.grid_file else {}
        words = grid_from_words(options.grid)
        if both := sorted(grid.keys() & words.keys()):
            raise ValueError(f"grid: expected every option once, got {', '.join(both)} in the file too")
        configs = combinations(options.config, grid | words, options.seeds)
        together = max(1, cores() // max(config.threads for config in configs))  # runs that fill this machine
        workers = options.workers or max(1, together // options.stack)
        if options.dry_run:
            return _dry_run(configs, folder, workers * min(options.stack, together))
        executor = dask_workers(options.scheduler) if options.scheduler else local_workers(workers)
        try:
            with (
                tqdm(total=len(configs), unit="run", desc=f"sweep {task_name(options.config)}", disable=None) as bar,
                executor as pool,
            ):
                progress = sweeps.sweep(
                    configs,
                    folder,
                    pool,
                    retries=options.retries,
                    stack=options.stack,
                    checkpoint_seconds=options.checkpoint_seconds,
                    watch=lambda progress: _show(bar, progress),
                )
        except KeyboardInterrupt:
            # Some may have ended since the bar was last drawn.
            _describe(
                store.count(folder, [f"{sweeps.folder_name(config)}/{RESULT}" for config in configs]), len(configs)
            )
            raise
        _end(configs, folder, progress, as_json=options.json)
        return 1 if progress.failed else 0


def _finished(configs: Sequence[Config], folder: Place) -> list[bool]:
    with store.readable(folder, (CONFIG, RESULT)) as found:
        return [finished(config, found / sweeps.folder_name(config)) for config in configs]


def _dry_run(configs: Sequence[Config], folder: Place, together: int) -> int:
    left = []
    for config, done in zip(configs, _finished(configs, folder), strict=True):
        print(f"{'finished' if done else 'to train'}  {store.below(folder, sweeps.folder_name(config))}")
        if not done:
            left.append(config)
    seconds = sum(estimated_seconds(left))
    print(
        f"{len(configs)} runs, {len(left)} to train: about {_time(seconds)} of training, "
        f"{_time(seconds / min(together, len(left) or 1))} with {together} side by side"
    )
    return 0


def _time(seconds: float) -> str:
    return tqdm.format_interval(math.ceil(seconds))


def _describe(done: int, total: int) -> None:
    interrupts.describe(f"with {done} of {total} runs done")


def _show(bar: Any, progress: sweeps.Progress) -> None:
    _describe(progress.done, progress.total)
    bar.initial = progress.skipped
    texts = [f"{progress.running} running", f"{len(progress.failed)} failed"]
    if best := _best(progress):
        texts.append(best)
    bar.set_postfix_str(", ".join(texts), refresh=False)
    bar.update(len(progress.outcomes) - bar.n)


def _best(progress: sweeps.Progress) -> str:
    found = [
        (measure.more_is_better, outcome.result["final"][measure.name], name, measure.name)
        for name, outcome in progress.outcomes.items()
        if outcome.result is not None and "diverged" not in outcome.result
        for measure in MEASURES[name.partition("-")[0]][:1]
    ]
    if not found:
        return ""
    _, value, name, metric = max(found, key=lambda each: each[1] if each[0] else -each[1])
    return f"best {metric} {value:.4g} ({name})"


def _end(configs: Sequence[Config], folder: Place, progress: sweeps.Progress, *, as_json: bool) -> None:
    results = {name: outcome.result for name, outcome in progress.outcomes.items() if outcome.result is not None}
    runs = [
        Run(Path(name), task_name(config), config, [], results[name])
        for config in configs
        if (name := sweeps.folder_name(config)) in results
    ]
    diverged = [str(run.folder) for run in runs if not run.converged]
    if as_json:
        told = {"folder": str(folder), "runs": len(configs), "skipped": progress.skipped, "retried": progress.retried}
        print(json.dumps({**told, "diverged": diverged, "failed": progress.failed, "summary": summary(runs)}))
    else:
        if runs:
            print(table(runs))
        print(f"sweep: {folder}: {len(runs)} of {len(configs)} runs done, {len(diverged)} of them diverged")
    for name, error in progress.failed.items():
        last = [line for line in error.splitlines() if line and not line[0].isspace()][-1]
        print(f"failed: {store.below(folder, name)}: {last}", file=sys.stderr)

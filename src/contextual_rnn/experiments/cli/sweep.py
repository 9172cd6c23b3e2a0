"""The command `contextual-rnn sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic

import tyro

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.cli.train import Options, TaskConfig
from contextual_rnn.experiments.config import CHECKPOINT_SECONDS, task_name


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Generic[TaskConfig]):
    """The options of a task, and of a sweep."""

    config: Annotated[TaskConfig, tyro.conf.arg(name="")]
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


@dataclass(frozen=True)
class Sweep(Generic[Options]):
    """Train every combination of some options and seeds, side by side, here or on a cluster.

    Options not in the grid are as given. Killed or interrupted, the same command goes on. The exit status is 1 where a
    run failed; a run that diverged has not; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """

    task: Annotated[Options, tyro.conf.arg(name="")]

    def run(self) -> int:
        from contextual_rnn._numbers import check_size
        from contextual_rnn.experiments.cli import sweep_output
        from contextual_rnn.experiments.progress import Bar
        from contextual_rnn.experiments.runs import store
        from contextual_rnn.experiments.runs.folder import RESULT
        from contextual_rnn.experiments.sweeps import sweep as sweeps
        from contextual_rnn.experiments.sweeps.grid import combinations, grid_from_file, grid_from_words
        from contextual_rnn.experiments.sweeps.workers import dask_workers, local_workers
        from contextual_rnn.experiments.training.threads import cores

        options: Any = self.task
        folder = store.out_folder(options.out or f"runs/sweep-{task_name(options.config)}")
        grid = grid_from_file(options.grid_file) if options.grid_file else {}
        words = grid_from_words(options.grid)
        if both := sorted(grid.keys() & words.keys()):
            raise ValueError(f"grid: expected every option once, got {', '.join(both)} in the file too")
        configs = sweeps.named(combinations(options.config, grid | words, options.seeds))
        together = max(1, cores() // max(config.threads for config in configs.values()))  # runs that fill this machine
        stack = check_size("stack", options.stack)
        workers = max(1, together // stack) if options.workers is None else check_size("workers", options.workers)
        if options.dry_run:
            return sweep_output.dry_run(configs, folder, workers * min(stack, together))
        executor = dask_workers(options.scheduler) if options.scheduler else local_workers(workers)
        try:
            with (
                Bar(total=len(configs), unit="run", desc=f"sweep {task_name(options.config)}") as bar,
                executor as pool,
            ):
                progress = sweeps.sweep(
                    configs,
                    folder,
                    pool,
                    retries=options.retries,
                    stack=stack,
                    checkpoint_seconds=options.checkpoint_seconds,
                    watch=lambda progress: sweep_output.show(bar, progress),
                )
        except KeyboardInterrupt:
            # Some may have ended since the bar was last drawn.
            interrupts.describe_runs(store.count(folder, [f"{name}/{RESULT}" for name in configs]), len(configs))
            raise
        sweep_output.print_end(configs, folder, progress, as_json=options.json)
        return 1 if progress.failed else 0

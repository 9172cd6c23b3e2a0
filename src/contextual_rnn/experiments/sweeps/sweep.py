"""Many runs side by side, each in its own folder; nothing is lost, and the same call continues where it stopped."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from queue import Empty, SimpleQueue
from typing import Any

from contextual_rnn._entries import entries_of
from contextual_rnn._numbers import check_function, check_size, shortened
from contextual_rnn._whole_file import unicode_text
from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import (
    CHECKPOINT_SECONDS,
    Config,
    config_from_dict,
    config_to_dict,
    entry_of,
    identity,
    task_name,
)
from contextual_rnn.experiments.config.options import at_least
from contextual_rnn.experiments.interrupts import Interrupted
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.folder import CONFIG, METRICS, RESULT, finished, read_run, versions
from contextual_rnn.experiments.runs.store import Place, Store
from contextual_rnn.experiments.runs.train import train_at
from contextual_rnn.experiments.sweeps.stack import side_by_side, stacks
from contextual_rnn.experiments.sweeps.workers import stop_requested

SWEEP, ERROR = "sweep.json", "error.txt"
WATCH_SECONDS = 0.5

Stack = tuple[str, ...]  # the names of runs that a worker is given at once


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `result` as in its file, or `error`, the traceback; never both. `worker` says where."""

    result: dict[str, Any] | None = None
    error: str | None = None
    worker: str = ""


@dataclass
class Progress:
    """The progress of a sweep: outcomes by name, numbers of runs skipped, running and retried."""

    total: int
    skipped: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    running: int = 0
    retried: int = 0

    @property
    def done(self) -> int:
        """How many runs have a result, those that were there before included."""
        return sum(outcome.result is not None for outcome in self.outcomes.values())

    @property
    def failed(self) -> dict[str, str]:
        """The traceback of every run that has no result."""
        return {name: outcome.error for name, outcome in self.outcomes.items() if outcome.error is not None}

    @property
    def reasons(self) -> dict[str, str]:
        """The error of every run that has no result, without where it was raised."""
        return {
            name: [line for line in error.splitlines() if line and not line[0].isspace()][-1]
            for name, error in self.failed.items()
        }


def folder_name(config: Config) -> str:
    """The folder of a run within its sweep: readable, and its own by the identity at the end."""
    return f"{task_name(config)}-{config.state}-seed{config.seed}-{identity(config)}"


def named(configs: Iterable[Config]) -> dict[str, Config]:
    """The configurations by the names of their folders. Raises ValueError where two are the same."""
    configs = entries_of("configs", configs, "a list of configurations, or a dict by name", once=True)
    names = {folder_name(config): config for config in configs}
    if len(names) < len(configs):
        raise ValueError(f"configs: expected every configuration once, got {len(configs) - len(names)} twice")
    return names


def _check_name(name: object) -> None:
    """Refuse what names no folder below another."""
    parts = PurePath(name).parts if isinstance(name, str) else ()
    if not parts or ".." in parts or PurePath(str(name)).anchor:
        raise ValueError(f"configs: expected names of folders below the sweep's, got {shortened(name)}")


def sweep(
    configs: Mapping[str, Config] | Sequence[Config],
    folder: Place,
    executor: Executor,
    *,
    retries: int = 2,
    stack: int = 1,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train every configuration into the folder of its name, by default `folder_name`, below `folder`.

    `folder` is a path or URL that all workers share. Returns how each run ended. Finished runs are skipped, begun ones
    go on. A run that raises is recorded with its traceback, in `error.txt` too, and the others go on; one whose worker
    was lost is tried again, `retries` times at most. With `stack` a worker gets so many runs at once that differ in the
    seed alone, for threads of one process. `watch` is called twice a second.

    Raises ValueError where two configurations are the same, for a name that leads out of `folder`, for a stack below 1,
    and for negative seconds or retries, TypeError for arguments of another type.
    """
    if not isinstance(executor, Executor):
        expected = "an Executor, such as that of `with local_workers(2) as executor`"
        raise TypeError(f"executor: expected {expected}, got {shortened(executor)}")
    at_least("checkpoint_seconds", checkpoint_seconds, 0)
    retries = check_size("retries", retries, 0)
    check_function("watch", watch)
    configs = configs if isinstance(configs, Mapping) else named(configs)
    for name, config in configs.items():
        _check_name(name)
        entry_of(config)
    if isinstance(folder, Path):
        folder = folder.absolute()
    progress = Progress(len(configs))
    left: dict[str, Config] = {}
    with store.readable(folder, (CONFIG, METRICS, RESULT)) as before:
        for name, config in configs.items():
            outcome = _outcome_before(config, before / name)
            if outcome is None:
                left[name] = config
            else:
                progress.skipped += outcome.result is not None
                progress.outcomes[name] = outcome
    tries = dict.fromkeys(stacks(left, stack), retries)
    if left:  # one that has finished is only read
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
        Store(folder).write(SWEEP, json.dumps({"runs": len(configs)}).encode())
    done: SimpleQueue[tuple[Stack, Future[list[Outcome]]]] = SimpleQueue()
    futures: dict[Stack, Future[list[Outcome]]] = {}

    def begin(runs: Stack) -> None:
        options = [config_to_dict(configs[name]) for name in runs]
        arguments = options, str(folder), list(runs), checkpoint_seconds, versions()
        futures[runs] = executor.submit(run_into, *arguments)
        futures[runs].add_done_callback(lambda future: done.put((runs, future)))

    def show() -> None:
        progress.running = sum(len(runs) for runs, future in futures.items() if future.running())
        watch(progress)

    for runs in tries:
        begin(runs)
    while futures:
        show()
        for runs, future in _completed(done):
            del futures[runs]
            if isinstance(_error(future), BrokenExecutor) and tries[runs]:
                tries[runs] -= 1
                progress.retried += len(runs)
                begin(runs)
            else:
                progress.outcomes |= zip(runs, _outcomes(future, len(runs)), strict=True)
            if not futures:
                break
    show()
    return progress


def _completed(done: SimpleQueue[Any]) -> Iterator[Any]:
    """The futures completed within `WATCH_SECONDS`, as a batch, so that polling stays linear in the number of runs."""
    end = time.monotonic() + WATCH_SECONDS
    while (rest := end - time.monotonic()) > 0:
        try:
            yield done.get(timeout=rest)
        except Empty:
            return


def run_into(
    options: list[dict[str, Any]], folder: str, names: list[str], checkpoint_seconds: float, expected: dict[str, str]
) -> list[Outcome]:
    """On a worker: train runs side by side and return how each ended. Exceptions raised in training are caught.

    Raises Interrupted where a signal asks this process to stop.
    """
    sweep_place, interrupted = store.place_of(folder), stop_requested()

    def run_one(options: dict[str, Any], name: str) -> Outcome:
        if interrupted():
            raise Interrupted
        worker, place = f"{platform.node()}, process {os.getpid()}", store.below(sweep_place, name)
        try:
            if (own := versions()) != expected:  # of a worker that joined late; the others were checked at the start
                raise RuntimeError(
                    f"worker: expected {expected}, as where the sweep was started, got {own} on {worker}"
                )
            if not Store(sweep_place).exists(SWEEP):
                raise FileNotFoundError(
                    f"folder: expected the sweep's, shared by all workers, got none on {worker}: {folder}"
                )
            config = config_from_dict(options)
            run = train_at(config, place, checkpoint_seconds=checkpoint_seconds, interrupted=interrupted)
            Store(place).remove(ERROR)
            return Outcome(run.result, worker=worker)
        except Exception:
            error = traceback.format_exc()
            with contextlib.suppress(OSError):  # the disk failed; the caller receives the error anyway
                if Store(place).exists(CONFIG):  # else the folder is not ours, or there is none
                    Store(place).write(ERROR, unicode_text(error).encode())
            return Outcome(error=error, worker=worker)

    work = [functools.partial(run_one, each, name) for each, name in zip(options, names, strict=True)]
    try:
        return side_by_side(options[0]["threads"], work) if len(work) > 1 else [work[0]()]
    except Interrupted:
        if interrupts.requested():
            raise
        return len(names) * [Outcome(error="cancelled")]  # by a client that has cancelled the run


def _outcome_before(config: Config, folder: Path) -> Outcome | None:
    try:
        return Outcome(read_run(folder).result) if finished(config, folder) else None
    except (ValueError, OSError):
        return Outcome(error=traceback.format_exc())


def _error(future: Future[list[Outcome]]) -> BaseException | None:
    return CancelledError("the scheduler has lost this run") if future.cancelled() else future.exception()


def _outcomes(future: Future[list[Outcome]], count: int) -> list[Outcome]:
    """The outcomes of a completed future. A lost worker and a broken environment are errors too."""
    error = _error(future)
    return future.result() if error is None else count * [Outcome(error="".join(traceback.format_exception(error)))]

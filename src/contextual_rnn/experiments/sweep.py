"""Many runs side by side, each in a folder of its own; nothing is lost, and the same call goes on where it stopped."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from contextual_rnn.experiments import results
from contextual_rnn.experiments.atomic_file import write_atomically
from contextual_rnn.experiments.config import Config
from contextual_rnn.experiments.results import config_from_dict, config_to_dict, identity, read_json, task_name
from contextual_rnn.experiments.training import CHECKPOINT_SECONDS, finished, train

SWEEP, ERROR = "sweep.json", "error.txt"
WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `result` as in its file, or `error`, the traceback; never both. `worker` says where."""

    result: dict[str, Any] | None = None
    error: str | None = None
    worker: str = ""


@dataclass
class Progress:
    """A sweep so far: outcomes by name, what was there before it, what is being trained."""

    total: int
    skipped: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    running: int = 0
    retried: int = 0

    @property
    def failed(self) -> dict[str, str]:
        """The traceback of every run that has no result."""
        return {name: outcome.error for name, outcome in self.outcomes.items() if outcome.error is not None}


def folder_name(config: Config) -> str:
    """The folder of a run within its sweep: readable, and its own by the identity at the end."""
    return f"{task_name(config)}-{config.state}-seed{config.seed}-{identity(config)}"


def sweep(
    configs: Sequence[Config],
    folder: Path,
    executor: Executor,
    *,
    retries: int = 2,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train every configuration below `folder`, which all workers share, and return how each run ended.

    Finished runs are skipped, begun ones go on. A run that raises is recorded with its traceback, in `error.txt` too,
    and the others go on; a run whose worker was lost is tried again, `retries` times at most. `watch` is called
    twice a second. Raises ValueError where two configurations are the same.
    """
    names = {folder_name(config): config for config in configs}
    if len(names) < len(configs):
        raise ValueError(f"configs: expected every configuration once, got {len(configs) - len(names)} twice")
    folder.mkdir(parents=True, exist_ok=True)
    results.write_json(folder / SWEEP, {"runs": len(configs)})
    progress = Progress(len(names))
    left: dict[str, int] = {}
    for name, config in names.items():
        outcome = _outcome_before(config, folder / name)
        if outcome is None:
            left[name] = retries
        else:
            progress.skipped += outcome.result is not None
            progress.outcomes[name] = outcome

    done: SimpleQueue[tuple[str, Future[Outcome]]] = SimpleQueue()
    futures: dict[str, Future[Outcome]] = {}

    def begin(name: str) -> None:
        options, path = config_to_dict(names[name]), str(folder.absolute() / name)
        futures[name] = executor.submit(run_into, options, path, checkpoint_seconds)
        futures[name].add_done_callback(lambda future: done.put((name, future)))

    def show() -> None:
        progress.running = sum(future.running() for future in futures.values())
        watch(progress)

    for name in left:
        begin(name)
    while futures:
        show()
        for name, future in _gathered(done):
            del futures[name]
            if isinstance(_error(future), BrokenExecutor) and left[name]:
                left[name] -= 1
                progress.retried += 1
                begin(name)
            else:
                progress.outcomes[name] = _outcome(future)
    show()
    return progress


def _gathered(done: SimpleQueue[Any]) -> Iterator[Any]:
    """What is done within a while, so that ten thousand short runs are not looked at ten thousand times each."""
    end = time.monotonic() + WATCH_SECONDS
    while (rest := end - time.monotonic()) > 0:
        try:
            yield done.get(timeout=rest)
        except Empty:
            return


def run_into(options: dict[str, Any], folder: str, checkpoint_seconds: float) -> Outcome:
    """On a worker: train one run and say how it ended. Nothing raised in training gets out of here."""
    path, worker = Path(folder), platform.node()
    try:
        if not (path.parent / SWEEP).is_file():
            raise FileNotFoundError(
                f"folder: expected the sweep's, shared by all workers, got none on {worker}: {path}"
            )
        run = train(config_from_dict(options), path, checkpoint_seconds=checkpoint_seconds)
        (path / ERROR).unlink(missing_ok=True)
        return Outcome(run.result, worker=worker)
    except Exception:
        error = traceback.format_exc()
        _record(error, path)
        return Outcome(error=error, worker=worker)


def _record(error: str, folder: Path) -> None:
    if (folder / results.CONFIG).is_file():  # else the folder is not ours, or there is none
        try:
            write_atomically(folder / ERROR, error.encode())
        except OSError:
            return  # the disk is what failed; whoever asked for the run is told all the same


def _outcome_before(config: Config, folder: Path) -> Outcome | None:
    try:
        return Outcome(read_json(folder / results.RESULT)) if finished(config, folder) else None
    except (ValueError, OSError):
        return Outcome(error=traceback.format_exc())


def _error(future: Future[Outcome]) -> BaseException | None:
    return CancelledError("the scheduler has lost this run") if future.cancelled() else future.exception()


def _outcome(future: Future[Outcome]) -> Outcome:
    """Of a future that is done; a worker that is lost for good, or has no sound environment, is an error as well."""
    error = _error(future)
    return future.result() if error is None else Outcome(error="".join(traceback.format_exception(error)))

"""Tries in processes of their own: one that crashes or hangs is replaced, and its number is known."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.fresh import PROCESSES
from tests.fuzz.outcome import Outcome

HANGING = 600.0  # seconds after which a process is given up; a slow machine is no finding, see `calls.MOST_SECONDS`
ADDRESS_SPACE = 12 << 30  # bytes: what asks for more gets an error, not the machine's memory
Job = tuple[str, int]


def _work(seed: str, connection: Connection) -> None:
    """Make the tries that are received, until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="contextual-rnn-fuzz-") as folder:
        os.chdir(folder)
        with contextlib.suppress(EOFError):
            while True:
                connection.send(_outcome(seed, connection.recv()))
        os.chdir("/")


def _outcome(seed: str, job: Job) -> Outcome:
    kind, number = job
    try:
        return importlib.import_module(f"tests.fuzz.{kind}").run(seed, number)
    except BaseException as error:  # of the tries themselves, or one that no library may raise
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
        return Outcome("?", "", "finding", type(error).__name__, place, str(error)[:300])


@dataclass
class _Worker:
    process: Any
    connection: Connection
    job: Job | None = None
    begun: float = 0.0


def _start(seed: str) -> _Worker:
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_work, args=(seed, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def tries(seed: str, jobs: Iterable[Job], workers: int = 1) -> Iterator[tuple[Job, Outcome]]:
    """The outcome of every try, which is the name of a module with `run(seed, number)` and a number, as it is there."""
    left, running = iter(jobs), []
    try:
        for _ in range(workers):
            running.append(_next(_start(seed), left))
        while any(worker.job is not None for worker in running):
            ready = wait([worker.connection for worker in running if worker.job is not None], timeout=1.0)
            for place, worker in enumerate(running):
                answered = worker.connection in ready
                if worker.job is None or not (answered or time.monotonic() - worker.begun > HANGING):
                    continue
                outcome = _receive(worker) if answered else _crash(worker)
                yield worker.job, outcome
                if outcome.error in ("crash", "hang"):
                    worker.process.kill()
                    worker.process.join()
                    worker.connection.close()
                    worker = running[place] = _start(seed)
                _next(worker, left)
    finally:
        for worker in running:
            worker.connection.close()
            worker.process.join(10)
            worker.process.kill()


def _next(worker: _Worker, left: Iterator[Job]) -> _Worker:
    worker.job, worker.begun = next(left, None), time.monotonic()
    if worker.job is not None:
        worker.connection.send(worker.job)
    return worker


def _receive(worker: _Worker) -> Outcome:
    try:
        return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        return _crash(worker)


def _crash(worker: _Worker) -> Outcome:
    worker.process.join(1)
    code = worker.process.exitcode
    if code is None:
        return Outcome("?", "", "finding", "hang", "", f"no answer in {HANGING:.0f} s")
    what = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return Outcome("?", "", "finding", "crash", "", what)

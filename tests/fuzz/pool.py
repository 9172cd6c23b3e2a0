"""Tries in processes of their own: one that crashes or hangs is replaced, and its number is known."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.fuzz.outcome import Outcome

HANGING = 120.0  # seconds after which a process is given up; a slow machine is no finding, see `calls.SLOW`
ADDRESS_SPACE = 12 << 30  # bytes: what asks for more gets an error, not the machine's memory
SPAWN = multiprocessing.get_context("spawn")


def _work(kind: str, seed: str, connection: Connection) -> None:
    """Make the tries whose numbers are received, until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import torch

    torch.set_num_threads(1)
    run = importlib.import_module(f"tests.fuzz.{kind}").run
    with tempfile.TemporaryDirectory(prefix="contextual-rnn-fuzz-") as folder:
        os.chdir(folder)
        with contextlib.suppress(EOFError):
            while True:
                connection.send(_try(run, seed, connection.recv()))
        os.chdir("/")


def _try(run: Callable[[str, int], Outcome], seed: str, number: int) -> Outcome:
    try:
        return run(seed, number)
    except BaseException as error:  # of the tries themselves, or one that no library may raise
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
        return Outcome("?", "", "finding", type(error).__name__, place, str(error)[:300])


@dataclass
class _Worker:
    process: Any
    connection: Connection
    number: int | None = None
    begun: float = 0.0


def _start(kind: str, seed: str) -> _Worker:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_work, args=(kind, seed, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def tries(kind: str, seed: str, numbers: Iterable[int], workers: int = 1) -> Iterator[tuple[int, Outcome]]:
    """The outcome of every try of a kind, "calls" for instance, as it is there."""
    left = iter(numbers)
    running: list[_Worker] = []
    try:
        for _ in range(workers):
            running.append(_next(_start(kind, seed), left))
        while any(worker.number is not None for worker in running):
            ready = wait([w.connection for w in running if w.number is not None], timeout=1.0)
            for place, worker in enumerate(running):
                if worker.number is None:
                    continue
                hangs = time.monotonic() - worker.begun > HANGING
                if worker.connection not in ready and not hangs:
                    continue
                outcome = _crash(worker) if hangs and worker.connection not in ready else _receive(worker)
                yield worker.number, outcome
                if not worker.process.is_alive() or outcome.error in ("crash", "hang"):
                    worker.process.kill()
                    worker.process.join()
                    worker = running[place] = _start(kind, seed)
                _next(worker, left)
    finally:
        for worker in running:
            worker.connection.close()
            worker.process.join(10)
            worker.process.kill()


def _next(worker: _Worker, left: Iterator[int]) -> _Worker:
    worker.number, worker.begun = next(left, None), time.monotonic()
    if worker.number is not None:
        worker.connection.send(worker.number)
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

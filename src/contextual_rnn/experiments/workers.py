"""Where runs are trained: processes on this machine, or the workers of a Dask scheduler. Both are stdlib Executors."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any, cast

import torch

from contextual_rnn.experiments.results import versions

CONNECT_SECONDS = 10


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch computes on `count` threads meanwhile, also in Python's threads that are started then."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Processes(Executor):
    """`count` spawned processes, each in a pool of its own: one that dies breaks the future that it worked on alone.

    That future raises BrokenProcessPool, and another process takes the place of the dead one. Processes leave
    interrupts to their parent, and end when it does, however it ends.
    """

    def __init__(self, count: int):
        self._threads = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._context = multiprocessing.get_context("spawn")
        self._pools: set[ProcessPoolExecutor] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._threads.submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pool: ProcessPoolExecutor | None = getattr(self._own, "pool", None)
        if pool is None:
            pool = ProcessPoolExecutor(1, mp_context=self._context, initializer=_obey_the_parent)
            self._pools.add(pool)
            self._own.pool = pool
        try:
            return pool.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            self._own.pool = None
            self._pools.discard(pool)
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in list(self._pools):
            pool.shutdown(wait)

    def stop(self) -> None:
        """End at once; what is being trained goes on from its checkpoint another time."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in list(self._pools):
            for process in list((pool._processes or {}).values()):  # it has no public way to end them
                process.kill()
        self.shutdown(cancel_futures=True)


def _obey_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextlib.contextmanager
def local_workers(count: int) -> Iterator[Executor]:
    """`count` processes on this machine; whatever is raised meanwhile, an interrupt too, ends them at once."""
    executor = Processes(count)
    try:
        yield executor
    except BaseException:
        executor.stop()
        raise
    executor.shutdown()


@contextlib.contextmanager
def dask_workers(address: str) -> Iterator[Executor]:
    """The workers of the scheduler at `address`, and those that join it later; a run whose worker is lost moves on.

    Raises ImportError where Dask is not installed, OSError where there is no scheduler, and RuntimeError, which names
    the worker, where one has no contextual_rnn or other versions than this process.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('Dask is not installed: pip install "contextual-rnn[sweeps]"') from error
    with Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
        _check_environments(cast("dict[str, Any]", client.run(versions, on_error="return")))
        yield client.get_executor(pure=False)


def _check_environments(found: dict[str, Any]) -> None:
    own = versions()
    if broken := {worker: answer for worker, answer in found.items() if answer != own}:
        told = "; ".join(f"{worker}: {answer!r}" for worker, answer in broken.items())
        raise RuntimeError(f"workers: expected {own} as here, got {told}")

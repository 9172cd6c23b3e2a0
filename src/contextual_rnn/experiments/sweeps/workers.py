"""Where runs are trained: processes on this machine, or the workers of a Dask scheduler. Both are stdlib Executors."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from multiprocessing import connection, resource_tracker
from typing import Any, cast

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.runs.folder import versions

START_METHOD = "spawn"  # a fork would inherit the threads' locks of this process
CONNECT_SECONDS = 10
STOP_SECONDS = 2.5  # for the end of a step and a checkpoint, before a process is killed


class Processes(Executor):
    """`count` spawned processes, each in its own pool: a process that dies breaks only the future that it worked on.

    That future raises BrokenProcessPool, and another process takes the place of the dead one. SIGINT, SIGTERM and
    SIGHUP end a process between two steps of training, after a checkpoint. It ends with its parent, however that ends.
    """

    def __init__(self, count: int):
        _start_resource_tracker()
        self._threads = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._context = multiprocessing.get_context(START_METHOD)
        self._pools: set[ProcessPoolExecutor] = set()
        self._starting, self._stopped = threading.Lock(), False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._threads.submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            with self._starting, _ctrl_c_blocked():  # so that `stop` sees every process that was started
                if self._stopped:
                    raise CancelledError
                pool: ProcessPoolExecutor | None = getattr(self._own, "pool", None)
                if pool is None:
                    pool = ProcessPoolExecutor(1, mp_context=self._context, initializer=_start_worker)
                    self._pools.add(pool)
                    self._own.pool = pool
                future = pool.submit(_work, fn, args, kwargs)
            return future.result()
        except BrokenProcessPool:
            self._pools.discard(self._own.pool)
            self._own.pool = None
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in list(self._pools):
            pool.shutdown(wait)

    def stop(self) -> None:
        """Begin no more runs, and end within STOP_SECONDS; unfinished runs continue from their checkpoints later."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._starting:
            self._stopped = True
        # A pool has no public method to end its processes.
        processes = [process for pool in list(self._pools) for process in list((pool._processes or {}).values())]
        for process in processes:
            process.terminate()
        running, end = {process.sentinel for process in processes}, time.monotonic() + STOP_SECONDS
        while running and (rest := end - time.monotonic()) > 0:
            running -= set(connection.wait(running, rest))
        for process in processes:
            process.kill()
        self.shutdown(cancel_futures=True)


def _start_resource_tracker() -> None:
    """Start the process in which Python removes semaphores that killed processes leave, without its warning.

    Otherwise the first worker starts it, which unblocks Ctrl-C.
    """
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


@contextlib.contextmanager
def _ctrl_c_blocked() -> Generator[None]:
    """A process that this thread starts gets Ctrl-C only once it handles it; SIGTERM ends it before, silently."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """In a new process: end on signals, and with the parent."""
    interrupts.install(worker=True)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _work(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In a worker: call `fn`; a signal that stops it ends the process, and the parent sees a broken pool."""
    try:
        with interrupts.deferred():
            return fn(*args, **kwargs)
    except interrupts.Interrupted:
        interrupts.end()


@contextlib.contextmanager
def local_workers(count: int) -> Generator[Executor]:
    """`count` processes on this machine; whatever is raised meanwhile, an interrupt too, ends them within seconds."""
    executor = Processes(count)
    try:
        yield executor
        executor.shutdown()
    except BaseException:
        executor.stop()
        raise


@contextlib.contextmanager
def dask_workers(address: str) -> Generator[Executor]:
    """The workers of the scheduler at `address`, and those that join it later; a run whose worker is lost moves on.

    Whatever is raised meanwhile, an interrupt too, closes the client, and Dask cancels the runs that have not finished.

    Raises ImportError where Dask is not installed, ValueError for what is no address, OSError where there is no
    scheduler, and RuntimeError, which names the worker, where one has no contextual_rnn or other versions than this
    process.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('Dask is not installed: pip install "contextual-rnn[sweeps]"') from error
    if not re.search(r":\d+$|^inproc:", address):
        raise ValueError(f"scheduler: expected an address such as tcp://host:8786, got {address}")
    with Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
        _check_environments(cast("dict[str, Any]", client.run(versions, on_error="return")))
        yield client.get_executor(pure=False)


def stop_requested() -> Callable[[], bool]:
    """In a worker: a function that returns True once the run must stop, after a signal or when Dask cancels it."""
    if "distributed" not in sys.modules:
        return interrupts.requested
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # there is none
        return interrupts.requested
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return cancelled


def _check_environments(environments: dict[str, Any]) -> None:
    own = versions()
    if broken := {worker: answer for worker, answer in environments.items() if answer != own}:
        answers = "; ".join(f"{worker}: {answer!r}" for worker, answer in broken.items())
        raise RuntimeError(f"workers: expected {own} as here, got {answers}")

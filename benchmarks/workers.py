"""Processes to measure in: as many cores as threads, so that no peer can use more than it is timed for."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from benchmarks.machine import available_cores

Result = TypeVar("Result")
START_METHOD = "spawn"  # nothing of this process is in what is measured


class Workers:
    """One process for every number of threads, started when first needed; a context manager that ends them.

    With `here` everything runs in this process, pinned to nothing.
    """

    def __init__(self, *, here: bool = False):
        self._here = here
        self._pools: dict[int, concurrent.futures.ProcessPoolExecutor] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown()

    def run(self, threads: int, function: Callable[..., Result], *arguments: Any) -> Result:
        if self._here:
            return _on_threads(threads, function, *arguments)
        if threads not in self._pools:
            self._pools[threads] = _pool(threads)
        return self._pools[threads].submit(_on_threads, threads, function, *arguments).result()


def _on_threads(threads: int, function: Callable[..., Result], *arguments: Any) -> Result:
    torch.set_num_threads(threads)  # what was measured before may have left another number
    return function(*arguments)


def run_alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """In a process that does nothing else, on one thread."""
    with _pool(1) as pool:
        return pool.submit(function, *arguments).result()


def _pool(threads: int) -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context(START_METHOD)
    return concurrent.futures.ProcessPoolExecutor(1, context, initializer=_settle, initargs=(threads,))


def _settle(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, available_cores()[-threads:])
    os.environ |= {"JAX_PLATFORMS": "cpu", "NPROC": str(threads)}  # NPROC: the size of XLA's thread pool
    torch.set_num_threads(threads)

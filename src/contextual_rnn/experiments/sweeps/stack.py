"""Many seeds in one process: runs that differ in the seed alone, side by side on its threads."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from contextual_rnn._numbers import check_size
from contextual_rnn.experiments.config import Config
from contextual_rnn.experiments.training.threads import cores, threads

Result = TypeVar("Result")

# How long a thread may wait for Python's lock after a computation. With Python's own 5 ms, ten steps of a small model,
# two threads of fast weights were 1.2 times as fast as one; with this value, 1.6 times.
SWITCH_SECONDS = 5e-5


def stacks(configs: Mapping[str, Config], size: int) -> list[tuple[str, ...]]:
    """Names of runs that differ in the seed alone together, `size` at most, in the order of the first of each.

    Raises ValueError for a size below 1, TypeError for what is no integer.
    """
    size = check_size("stack", size)
    groups: dict[Config, list[str]] = {}
    for name, config in configs.items():
        groups.setdefault(dataclasses.replace(config, seed=0), []).append(name)
    return [tuple(group[i : i + size]) for group in groups.values() for i in range(0, len(group), size)]


def side_by_side(threads_each: int, work: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do all `work`, each on `threads_each` threads, as much at once as this process has cores for.

    PyTorch and the kernels leave Python's lock while they compute. The runs do not affect each other's numbers: each
    computes as it would alone, so that results are equal to the byte.
    """
    switch = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    at_once = max(1, min(len(work), cores() // threads_each))
    try:
        with threads(threads_each), ThreadPoolExecutor(at_once) as pool:  # set before they start: some are shared
            return list(pool.map(lambda each: each(), work))
    finally:
        sys.setswitchinterval(switch)

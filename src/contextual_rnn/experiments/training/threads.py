"""Processor threads of a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

import torch


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def threads(count: int) -> Generator[None]:
    """PyTorch computes on `count` threads meanwhile, also in Python's threads that are started then."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

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
    """PyTorch computes on `count` threads meanwhile, also in Python's threads that are started then.

    Subnormal numbers are zeros there: gradients of early steps, and averages of Adam's for weights without a gradient,
    end among them, and Intel's processors take a hundred cycles for each.
    """
    before, were_zeros = torch.get_num_threads(), not bool(torch.tensor(1e-40, device="cpu") * 1)
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(were_zeros)

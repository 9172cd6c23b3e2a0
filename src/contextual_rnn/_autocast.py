"""Whether autocast chooses the dtypes, and what it may remember."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

_CAST = (torch.float32, torch.bfloat16, torch.float16)


def in_autocast(device: torch.device) -> bool:
    """Whether autocast is on there; False on devices without it, such as meta."""
    kind = device.type
    known = kind in ("cpu", "cuda")  # not asked for, as torch.compile cannot trace the question in every version
    return (known or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)


def autocast_joins(first: torch.dtype, second: torch.dtype, device: torch.device) -> bool:
    """Whether autocast is on there and casts both dtypes to one: it leaves float64 and what is no float as it is."""
    return first in _CAST and second in _CAST and in_autocast(device)


@contextmanager
def no_grad(device: torch.device) -> Generator[None]:
    """torch.no_grad() for steps that others with gradients follow within one autocast.

    Autocast keeps a weight that it has cast; in torch 2.9 the steps with gradients get the one cast without.
    """
    with torch.no_grad():
        if not in_autocast(device):
            yield
        else:
            with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False):
                yield

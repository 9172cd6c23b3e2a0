"""What a call may be made in: modes of torch, defaults, transforms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def _default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# In these a call returns what it returns anywhere; what makes modules or tensors from nothing follows the defaults.
SAME: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype float64": _default_dtype,
    "default device meta": lambda: torch.device("meta"),
    "anomaly": lambda: torch.autograd.detect_anomaly(check_nan=False),
    "deterministic": _deterministic,
}
WITHOUT_GRADIENT = ("no_grad", "inference_mode")
DEFAULTS = ("default dtype float64", "default device meta")
ALL: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    **SAME,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "nothing": contextlib.nullcontext,
}

"""What every backend of the fast-weights recurrence is told besides its tensors."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

Timing = Literal["ba2016", "wenke2019"]
TIMINGS: tuple[Timing, ...] = get_args(Timing)


class LowRank(NamedTuple):
    """Fast weights A = left^T right given by r pairs of vectors, so that A v = sum_i left_i (right_i . v).

    Shapes: left and right (B, r, H). With left equal to right this is r virtual memories, as if r vectors had
    been written before the first step.
    """

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """The matrix itself, (B, H, H)."""
        return self.left.transpose(1, 2) @ self.right  # which the older ONNX exporter knows, unlike mT


@dataclass(frozen=True)
class FastWeightsOptions:
    inner_steps: int
    decay: float | Tensor
    rate: float | Tensor
    layer_norm: bool
    timing: Timing
    eps: float
    return_fast_weights: bool


def decay_tables(options: FastWeightsOptions, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """How much of what was written is left: rate * decay^age, (T,), by age 0..T-1, and decay^count, (T + 1,).

    A read after `count` writes sees A(0) times the second at `count` and every written pair times the first at its
    age. Gradients of decay and rate, where they are tensors, come through these tables.
    """
    decay, rate = options.decay, options.rate
    learned = isinstance(decay, Tensor) or isinstance(rate, Tensor)
    # What a mode such as FakeTensorMode makes is good for that mode alone.
    if learned or torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return _tables(decay, rate, steps, like.dtype, like.device)
    return _kept_tables(decay, rate, steps, like.dtype, like.device)


def _tables(
    decay: float | Tensor, rate: float | Tensor, steps: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    powers = decay ** torch.arange(steps + 1, dtype=torch.float64, device=device)
    return (rate * powers[:steps]).to(dtype), powers.to(dtype)


@functools.lru_cache(maxsize=64)
def _kept_tables(
    decay: float, rate: float, steps: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        return _tables(decay, rate, steps, dtype, device)

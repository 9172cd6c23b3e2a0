"""What every backend of the fast-weights recurrence is told besides its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import Tensor

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
        return self.left.mT @ self.right


@dataclass(frozen=True)
class FastWeightsOptions:
    inner_steps: int
    decay: float
    rate: float
    layer_norm: bool
    timing: Timing
    eps: float
    return_fast_weights: bool

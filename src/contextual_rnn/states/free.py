"""A free initial state (paper, Eq. 2b): a learned variable, tiled over the batch."""

from __future__ import annotations

from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from contextual_rnn._numbers import DECAY, NOT_NEGATIVE, check_number
from contextual_rnn._sharded import is_fsdp
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.tree import State
from contextual_rnn.states._back_propagated_error import BackPropagatedError
from contextual_rnn.states._heads import batch_of
from contextual_rnn.states._parameters import LeafParameters
from contextual_rnn.states._recomputed import compute_again
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.moments import Moments


class FreeState(InitialState):
    """h0 = variable (paper, Eq. 2b): learned, the same for every example, with optional noise on the copies.

    In training h0 = variable + noise * epsilon, epsilon ~ N(0, 1) drawn anew for every row and unit; in evaluation
    h0 = variable. With `error_decay` the noise of a unit is in proportion to a moving mean, of that decay, of the error
    back-propagated to it (Zimmermann et al. 2012): noise * `BackPropagatedError.relative`, which starts at `noise` (the
    source leaves this open), fades as the network learns, and never exceeds it in root mean square. Under a
    loss scale give the scaler to `error.unscale`, or the noise follows the scale. `value` is where the variable starts,
    as for `ConstantState`; of a leaf with a domain the variable is the real numbers that stand for it (see `Leaf`), and
    noise is added to these. A low-rank factor that would start at zero starts at N(0, 1 / width). Noise on a complex
    leaf is complex too, with E |epsilon|^2 = 1.

    Raises TypeError or ValueError for a `noise` that is no number, negative or not finite, a `value` outside a leaf's
    domain or at its limit, and an `error_decay`
    outside 0 <= error_decay < 1 or beside a complex leaf; RuntimeError for `error_decay` under torch.compile.
    """

    saved_numbers = MappingProxyType({"noise": NOT_NEGATIVE})

    def __init__(
        self,
        network: nn.Module | StateSpec,
        noise: float = 0.0,
        value: float | State | None = None,
        *,
        error_decay: float | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(network, device=device, dtype=dtype)
        self.noise = check_number("noise", noise, *NOT_NEGATIVE)
        self.check_saved("noise", self.noise)
        if error_decay is not None:
            check_number("error_decay", error_decay, *DECAY)
            for leaf in self.spec.floats:
                if (of := self.spec.dtype_of(leaf)) is not None and of.is_complex:
                    raise ValueError(
                        f"error_decay: expected None for complex numbers, as leaf {leaf.name!r} has, of {of}"
                    )
        self.error = None if error_decay is None else BackPropagatedError(self.spec, error_decay)
        leaves = self.spec.fill(value)
        self.spec.check_domains(leaves, "value", limits=False)
        leaves = dict(self.spec.unconstrain(leaves))
        value = self.spec.start if value is None else value
        draw_factors = isinstance(value, Real) and value == 0
        value = leaves if self.spec.bounded else value
        self.values = LeafParameters(self.spec.floats, leaves, value, draw_factors)
        self._keep({leaf.name: leaves[leaf.name] for leaf in self.spec.constants}, value)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.values.reset_parameters()
        if self.error is not None:
            self.error.reset_parameters()

    @property
    def _alike(self) -> bool:
        # Both see gradients row by row.
        return self.error is None and not self.values._hooked  # pyright: ignore[reportPrivateUsage]

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        size = batch_of(context, batch_size, batched)
        moments = self._constants(size) if self.spec.constants else {}
        noise, error, sharded = self.noise or None, self.error if self.training else None, is_fsdp(self)
        for name, mean in self.values._tiled(size).items():  # pyright: ignore[reportPrivateUsage]
            if sharded:  # the parameter's memory is gone when the network reads what was tiled without copies
                mean = mean.clone()
            if error is None:
                moments[name] = Moments(mean, noise)
            else:
                error.watch(name, mean)
                moments[name] = Moments(mean, self.noise * compute_again(partial(error.relative, name)))
        return moments

    def extra_repr(self) -> str:
        return f"{self.spec.describe()}, noise={self.noise}"

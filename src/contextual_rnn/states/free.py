"""A free initial state (paper, Eq. 2b): a learned variable, tiled over the batch."""

from __future__ import annotations

from functools import partial
from numbers import Real
from typing import Any

from torch import nn

from contextual_rnn._numbers import check_number
from contextual_rnn._sharded import is_fsdp
from contextual_rnn._tree import State
from contextual_rnn.state_spec import StateSpec
from contextual_rnn.states._back_propagated_error import BackPropagatedError
from contextual_rnn.states._heads import batch_of, tile
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
    as for `ConstantState`; a low-rank factor that would start at zero starts at N(0, 1 / width).

    Raises TypeError or ValueError for a `noise` that is no number, negative or not finite, and an `error_decay`
    outside 0 <= error_decay < 1; RuntimeError for `error_decay` under torch.compile.
    """

    def __init__(
        self,
        network: nn.Module | StateSpec,
        noise: float = 0.0,
        value: float | State = 0.0,
        *,
        error_decay: float | None = None,
    ):
        super().__init__(network)
        self.noise = check_number("noise", noise, "a finite number of at least 0", lambda noise: noise >= 0)
        if error_decay is not None:
            check_number("error_decay", error_decay, "a number from 0 to below 1", lambda decay: 0 <= decay < 1)
        self.error = None if error_decay is None else BackPropagatedError(self.spec, error_decay)
        self.values = nn.ParameterDict(self.spec.fill(value))
        for leaf in self.spec:
            if leaf.factor and isinstance(value, Real) and value == 0:
                nn.init.normal_(self.values[leaf.name], std=leaf.shape[-1] ** -0.5)

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        size, moments = batch_of(context, batch_size, batched), {}
        for leaf in self.spec:
            value = self.values[leaf.name]
            # Under FSDP the parameter's memory is gone when the network reads what was tiled without copies.
            mean, scale = tile(value.clone() if is_fsdp(self) else value, size), self.noise or None
            if self.error is not None and self.training:
                self.error.watch(leaf.name, mean)
                scale = self.noise * compute_again(partial(self.error.relative, leaf.name))
            moments[leaf.name] = Moments(mean, scale)
        return moments

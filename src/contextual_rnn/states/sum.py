"""A weighted sum of initial states: tasks interpolated, or added."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from contextual_rnn._entries import entries_of
from contextual_rnn._numbers import FINITE, check_number
from contextual_rnn._precision import wide
from contextual_rnn._sharded import as_forward
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.moments import Moments, as_tensor


class SumState(InitialState):
    """h0 = sum_i w_i h0_i: weights that sum to 1 interpolate between states, weights of 1 add what tasks learned.

        between = SumState([english, french], [0.3, 0.7])
        h0 = FreeState(network, value=between.eval()())      # of free states: folded into one

    The states are drawn independently where they are random: a scale is the root of the sum of (w_i sigma_i)^2. All
    get the same context. `weights` is a list that may be changed at any time. Of a low-rank leaf the factors are
    summed, not their products; of a leaf with a domain the real numbers that stand for it are. A leaf without floats is
    that of the first state.

    Raises TypeError for what is no InitialState or number, ValueError without states, for another number of weights,
    one that is not finite, and states made for different networks.
    """

    saved_numbers = MappingProxyType({"weights": FINITE})

    def __init__(self, states: Sequence[InitialState], weights: Sequence[float]):
        states = entries_of("states", states, "a list of InitialStates")
        weights = entries_of("weights", weights, "a list of numbers")
        for state in states:
            if not isinstance(state, InitialState):
                raise TypeError(f"states: expected InitialStates, got {type(state).__name__}")
            self._refuse_latent("states", state)
        if not states:
            raise ValueError("states: expected at least one, got none")
        if len(weights) != len(states):
            raise ValueError(f"weights: expected {len(states)}, one for each state, got {len(weights)}")
        super().__init__(states[0].spec)
        for state in states[1:]:
            if state.spec.tree != self.spec.tree:
                raise ValueError(f"states: expected all for {self.spec.describe()}, got {state.spec.describe()}")
        self.states = nn.ModuleList(states)
        self.weights = [check_number("weights", weight) for weight in weights]
        self.check_saved("weights", self.weights)

    @property
    def reads_context(self) -> bool:
        return any(state.reads_context for state, _ in self._terms())

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        return self._computed(context, batch_size, batched)

    def _computed(
        self, context: Any, batch_size: int | None, batched: bool | None, precise: bool = False
    ) -> dict[str, Moments]:
        first, terms = next(iter(self.spec)), []
        # Contextual states are evaluated first: they determine the batch size of the others.
        for state, weight in sorted(self._terms(), key=lambda term: not term[0].reads_context):
            term = state._precise_moments if precise else state._moments
            moments = as_forward(state, term)(context, batch_size, batched)
            terms.append((moments, weight))
            batch_size = rows_of(first, moments[first.name].mean)
            batched = batch_size is not None
        sums = {
            leaf.name: _sum([(moments[leaf.name], weight) for moments, weight in terms]) for leaf in self.spec.floats
        }
        return sums | self._constants(batch_size) if self.spec.constants else sums

    def _constants(self, batch_size: int | None) -> dict[str, Moments]:
        state, _ = self._terms()[0]
        return state._constants(batch_size)

    def reset_parameters(self) -> None:
        for state, _ in self._terms():
            state.reset_parameters()

    def extra_repr(self) -> str:
        return f"{self.spec.describe()}, weights=[{', '.join(f'{float(weight):g}' for weight in self.weights)}]"

    def _terms(self) -> list[tuple[InitialState, float]]:
        return [
            (state, w) for state, w in zip(self.states, self.weights, strict=True) if isinstance(state, InitialState)
        ]


def _sum(terms: list[tuple[Moments, float]]) -> Moments:
    means = [weight * wide(moments.mean) for moments, weight in terms]
    scales = [
        weight * as_tensor(moments.scale, mean)
        for (moments, weight), mean in zip(terms, means, strict=True)
        if moments.scale is not None
    ]
    squares = [scale.square() for scale in scales]
    scale = sum(squares[1:], squares[0]).sqrt() if squares[1:] else scales[0].abs() if scales else None
    dtype = functools.reduce(torch.promote_types, (moments.mean.dtype for moments, _ in terms))
    return Moments(sum(means[1:], means[0]).to(dtype), scale)

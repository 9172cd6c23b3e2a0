"""A constant initial state (paper, Eq. 2a)."""

from __future__ import annotations

from typing import Any

from torch import nn

from contextual_rnn._tree import State
from contextual_rnn.state_spec import StateSpec
from contextual_rnn.states._heads import batch_of, tile
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.moments import Moments


class ConstantState(InitialState):
    """h0 = constant (paper, Eq. 2a): zero, any number, or any state of one example.

    `value` is a number, or a state of one unbatched example in the network's own structure and layout. Kept as
    buffers, so saved and moved with the module. Raises ValueError or TypeError for a value of another shape or
    structure.
    """

    def __init__(self, network: nn.Module | StateSpec, value: float | State = 0.0):
        super().__init__(network)
        for leaf, tensor in self.spec.fill(value).items():
            self.register_buffer(f"value_{leaf}", tensor)

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        size = batch_of(context, batch_size, batched)
        return {leaf.name: Moments(tile(getattr(self, f"value_{leaf.name}"), size), None) for leaf in self.spec}

"""A constant initial state (paper, Eq. 2a)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from contextual_rnn._numbers import readable
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.tree import State
from contextual_rnn.states._heads import batch_of, tile
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.moments import Moments


class ConstantState(InitialState):
    """h0 = constant (paper, Eq. 2a): zero, any number, or any state of one example.

    `value` is None for what the network itself starts from, which is zero unless its spec says otherwise; a number; or
    a state of one unbatched example in the network's own structure and layout. Kept as buffers, so saved and moved with
    the module. Raises ValueError or TypeError for a value of another shape or structure, or outside a leaf's domain.
    """

    _alike = True

    def __init__(
        self,
        network: nn.Module | StateSpec,
        value: float | State | None = None,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(network, device=device, dtype=dtype)
        leaves = self.spec.fill(value)
        self.spec.check_domains(leaves, "value")
        self._keep(leaves, self.spec.start if value is None else value)

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        size = batch_of(context, batch_size, batched)
        leaves = self.spec.unconstrain({leaf.name: getattr(self, f"value_{leaf.name}") for leaf in self.spec})
        return {name: Moments(tile(leaf, size), None) for name, leaf in leaves.items()}

    def extra_repr(self) -> str:
        values = [getattr(self, f"value_{leaf.name}") for leaf in self.spec]
        first = values[0].flatten()[0]
        same = readable(first) and all(bool((value == first).all()) for value in values)
        return f"{self.spec.describe()}, value={first.item()}" if same else self.spec.describe()

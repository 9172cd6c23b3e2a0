"""Initial states of somebody's own, as docs/own-states.md has one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn import InitialState, Moments, StateSpec


class OwnState(InitialState):
    """h0 ~ N(W context + b, scale^2), a scale for each leaf that broadcasts over its units."""

    def __init__(self, network: nn.Module | StateSpec):
        super().__init__(network)
        place: dict[str, Any] = {"device": self.spec.device}
        leaves = [(leaf, self.spec.dtype_of(leaf)) for leaf in self.spec.floats]
        self.shapes = {leaf.name: leaf.shape for leaf in self.spec.floats}
        self.heads = nn.ModuleDict(
            {leaf.name: nn.Linear(2, leaf.numel, dtype=dtype, **place) for leaf, dtype in leaves}
        )
        self.scales = nn.ParameterDict({leaf.name: torch.zeros(1, dtype=dtype, **place) for leaf, dtype in leaves})

    @property
    def reads_context(self) -> bool:
        return True

    def moments(self, context: Tensor, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        return {
            name: Moments(self.heads[name](context).unflatten(-1, shape), 0.25 * functional.softplus(self.scales[name]))
            for name, shape in self.shapes.items()
        }


class GivenState(InitialState):
    """Moments that a test gives, whatever the context."""

    def __init__(self, network: nn.Module | StateSpec, moments: Any, reads_context: bool = False):
        super().__init__(network)
        self.given, self.reads = moments, reads_context

    @property
    def reads_context(self) -> bool:
        return self.reads

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> Any:
        return self.given

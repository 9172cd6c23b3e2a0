"""What the tensors of an initial state start as, kept where `to_empty` does not reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from contextual_rnn.spec.tree import State


@dataclass(frozen=True)
class Start:
    """One number for all leaves, or a number or a tensor for each leaf."""

    value: float | Mapping[str, float] | Mapping[str, Tensor]

    @classmethod
    def of(cls, value: float | State, leaves: Mapping[str, Tensor]) -> Start:
        """The start of `leaves`, which were filled with `value`; numbers are copied to the CPU unless one says all."""
        if isinstance(value, Real):
            return cls(float(value))
        if isinstance(value, Mapping) and all(isinstance(number, Real) for number in value.values()):
            return cls({name: float(value[name]) for name in leaves})
        return cls(
            {name: leaf.detach().to("cpu", copy=True) if not leaf.is_meta else leaf for name, leaf in leaves.items()}
        )

    @torch.no_grad()
    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the start into tensors in place."""
        for name, tensor in tensors.items():
            start = self.value[name] if isinstance(self.value, Mapping) else self.value
            if isinstance(start, Tensor):
                tensor.copy_(start)
            else:
                tensor.fill_(start)

"""A network, an input and a state of random numbers, on which a registration is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn.spec.arguments import Inputs
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.steps import call, copied
from contextual_rnn.spec.tree import State


@dataclass
class Trial:
    """A network, an input and a state of random numbers."""

    network: nn.Module
    spec: StateSpec
    inputs: Inputs
    tolerance: float | None

    @property
    def batch(self) -> int:
        return self.inputs.tensor.shape[self.inputs.batch_dim]

    def random(self, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        like = next((p for p in self.network.parameters() if p.is_floating_point()), self.inputs.tensor)
        leaves = {}
        for leaf in self.spec:
            dtype = self.spec.dtype_of(leaf) or like.dtype
            if dtype.is_floating_point or dtype.is_complex:
                values = torch.randn(self.batch, *leaf.shape, generator=generator, dtype=torch.float64, device="cpu")
                leaves[leaf.name] = (0.5 * values).to(like.device, dtype)
            else:
                leaves[leaf.name] = torch.full((self.batch, *leaf.shape), leaf.start, dtype=dtype, device=like.device)
        return dict(self.spec.constrain(leaves))

    @cached_property
    def leaves(self) -> dict[str, Tensor]:
        return self.random(0)

    @cached_property
    def zeros(self) -> dict[str, Tensor]:
        return {leaf.name: torch.full_like(self.leaves[leaf.name], leaf.start) for leaf in self.spec}

    def state(self, leaves: Mapping[str, Tensor] | None = None) -> State:
        return copied(self.spec.pack(self.leaves if leaves is None else leaves))

    def run(self, state: State, inputs: Inputs | None = None) -> Any:
        inputs = self.inputs if inputs is None else inputs
        return call(self.network, self.spec, inputs.tensor, state, **inputs.arguments)

    @cached_property
    def whole(self) -> list[Tensor]:
        """The output and the leaves of the final state."""
        return self.tensors(self.run(self.state()))

    def tensors(self, returned: Any) -> list[Tensor]:
        """The output with the batch first, and the leaves of the state."""
        output, state = self.pair(returned)
        return [output.movedim(self.inputs.batch_dim, 0), *self.spec.check(state, "the state returned").values()]

    def pair(self, returned: Any) -> tuple[Tensor, State]:
        one_step = self.spec.known_time_dim is None
        if one_step and not (isinstance(returned, (tuple, list)) and len(returned) == 2 and self.fits(returned[1])):
            return next(iter(self.spec.check(returned).values())), returned  # a cell may return its state alone
        return returned[0], returned[1]

    def fits(self, state: State) -> bool:
        try:
            leaves = self.spec.check(state)
        except (TypeError, ValueError):
            return False
        return all(len(tensor) == self.batch for tensor in leaves.values() if tensor.ndim)

    def difference(self, first: list[Tensor], second: list[Tensor]) -> str | None:
        """The largest difference in words, None where it is rounding."""
        for number, (a, b) in enumerate(zip(first, second, strict=True)):
            if a.shape != b.shape:
                return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
            if not a.numel() or not (a.is_floating_point() or a.is_complex()):
                if not torch.equal(a, b):
                    return f"other numbers in {self.name_of(number)}"
                continue
            scale, gap = float(b.detach().abs().max()), float((a - b).detach().abs().max())
            tolerance = torch.finfo(a.dtype).eps ** 0.75 if self.tolerance is None else self.tolerance
            if not gap <= tolerance * max(1.0, scale):
                return f"a difference of {gap:.2g} in {self.name_of(number)}, whose largest number is {scale:.2g}"
        return None

    def name_of(self, number: int) -> str:
        return "the output" if number == 0 else f"leaf {list(self.spec)[number - 1].name!r} of the final state"


def in_first_row(leaf: Tensor) -> Tensor:
    """True for the first row of a leaf, (B, 1, ...)."""
    first = torch.zeros(len(leaf), dtype=torch.bool, device=leaf.device)
    first[0] = True
    return first.reshape(-1, *[1] * (leaf.ndim - 1))

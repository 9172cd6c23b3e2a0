"""Missing contexts: one model with and without a context, and how strongly the context counts."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import FINITE, SHARE, check_held, check_number
from contextual_rnn._precision import wide
from contextual_rnn._sharded import as_forward
from contextual_rnn.spec.tree import State, pack, rows_of
from contextual_rnn.states._heads import check_call
from contextual_rnn.states._recomputed import draw_again
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.free import FreeState
from contextual_rnn.states.moments import Moments, draw, of_rows


class ContextDropout(InitialState):
    """`state`, but `null` where the context is missing, which training pretends for a share of the examples.

        training:    h0 = null with probability p, else state(context), drawn anew for every row (all leaves together)
        evaluation:  mean of h0 = null + guidance * (g(context) - null), and the scale that `state` has
        context None: h0 = null, in training and evaluation

    `p` is the share of contexts dropped. `null` is by default a `FreeState`; beside a `NormalState` take
    `NormalState(spec, FreeState(spec))`, so that what is drawn without a context varies too. `guidance` 1 is the
    state as it is, 0 the null state's mean, and more than 1 goes beyond the context; it may be set at any time. Of a
    low-rank leaf the factors are guided, not their product. `sample` guides in evaluation alone, and never drops. A
    leaf without floats is always that of `state`. `device` and `dtype` are those of a `null` that is made here.

    Raises TypeError for a state that is none, ValueError for a `null` made for another network or one that reads a
    context, TypeError or ValueError for a `p` outside 0 to 1, a guidance that is not a finite number, and a
    device or dtype beside a `null` that is given.
    Source: the dropped condition and the extrapolation are those of classifier-free guidance (Ho and Salimans 2022),
    which guides the score at every step of a diffusion; here they act on the initial state alone, once.
    """

    saved_numbers = MappingProxyType({"p": SHARE, "guidance": FINITE})

    def __init__(
        self,
        state: InitialState,
        p: float = 0.1,
        *,
        guidance: float = 1.0,
        null: InitialState | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        for name, given in (("state", state), ("null", null)):
            if not isinstance(given, InitialState) and not (name == "null" and given is None):
                raise TypeError(f"{name}: expected an InitialState, got {type(given).__name__}")
        for name, given in (("device", device), ("dtype", dtype)):
            if null is not None and given is not None:
                raise ValueError(f"{name}: expected None beside a null state that is given, got {given}")
        super().__init__(state.spec, device=device, dtype=dtype)
        self.p = check_number("p", p, *SHARE)
        self.guidance = check_number("guidance", guidance)
        for leaf in self.spec.floats:
            check_held("guidance", self.guidance, self.spec.dtype_of(leaf))
        self.state = state
        self.null = FreeState(self.spec) if null is None else null
        if self.null.spec.tree != self.spec.tree:
            raise ValueError(
                f"null: expected a state for {self.spec.describe()}, got one for {self.null.spec.describe()}"
            )
        if self.null.reads_context:
            raise ValueError(f"null: expected a state without a context, got {type(null).__name__}")

    @property
    def reads_context(self) -> bool:
        return self.state.reads_context

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        if context is None:
            null = as_forward(self.null, self.null._moments)(None, batch_size, batched)
            return null | self._constants(None if batched is False else batch_size) if self.spec.constants else null
        given = as_forward(self.state, self.state._moments)(context, batch_size, batched)
        guidance = check_number("guidance", self.guidance)
        if self.training or guidance == 1:
            return given
        null, guided = self._null_beside(given), dict(given)
        for leaf in self.spec.floats:
            (mean, scale), start = given[leaf.name], wide(null[leaf.name].mean)
            guided[leaf.name] = Moments((start + guidance * (wide(mean) - start)).to(mean.dtype), scale)
        return guided

    def _constants(self, batch_size: int | None) -> dict[str, Moments]:
        return self.state._constants(batch_size)

    def reset_parameters(self) -> None:
        self.state.reset_parameters()
        self.null.reset_parameters()

    def extra_repr(self) -> str:
        return f"p={self.p}, guidance={self.guidance}"

    def forward(
        self,
        context: Any = None,
        batch_size: int | None = None,
        *,
        batched: bool | None = None,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
    ) -> State:
        """As for every state; None as context is no error but the null state. `generator` repeats the dropping too."""
        if context is None or not self.training or self.p == 0:
            return super().forward(context, batch_size, batched=batched, generator=generator, rows=rows)
        batch_size = check_call(batch_size, batched, generator)
        given = of_rows(self._moments(context, batch_size, batched), self.spec, rows)
        null, first = self._null_beside(given), next(iter(self.spec))
        mean = given[first.name].mean
        batch = mean.shape[: mean.ndim - len(first.shape)]  # (B,), or () without a batch
        drop = draw_again(lambda: torch.rand(batch, generator=generator, device=mean.device), generator) < self.p
        leaves = {leaf.name: given[leaf.name].mean for leaf in self.spec.constants}
        for leaf in self.spec.floats:
            chosen = drop.reshape(*batch, *(1 for _ in leaf.shape))
            with_context, without = (draw(moments[leaf.name], generator) for moments in (given, null))
            leaves[leaf.name] = torch.where(chosen, without, with_context)
        return pack(self.spec.tree, leaves)

    def _null_beside(self, given: dict[str, Moments]) -> dict[str, Moments]:
        """The null state's moments for the batch that the context turned out to have."""
        first = next(iter(self.spec))
        batch_size = rows_of(first, given[first.name].mean)
        return as_forward(self.null, self.null._moments)(None, batch_size, batch_size is not None)

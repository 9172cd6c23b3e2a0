"""Missing contexts: one model with and without a context, and how strongly the context counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from contextual_rnn._numbers import FINITE, SHARE, check_number
from contextual_rnn._precision import wide
from contextual_rnn._sharded import as_forward
from contextual_rnn._tensors import random
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.tree import State, pack
from contextual_rnn.states._recomputed import draw_again
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.free import FreeState
from contextual_rnn.states.moments import Moments, draw, of_rows
from contextual_rnn.states.normal_posterior import NormalPosterior
from contextual_rnn.states.posterior import Posterior
from contextual_rnn.states.priors import Prior


class ContextDropout(InitialState):
    """`state`, but `null` where the context is missing, which training pretends for a share of the examples.

        training:    h0 = null with probability p, else state(context), drawn anew for every row (all leaves together)
        evaluation:  mean of h0 = null + guidance * (g(context) - null), and the scale that `state` has
        context None: h0 = null, in training and evaluation, which is no error

    `p` is the share of contexts dropped. `null` is by default a `FreeState`; beside a `NormalState` take
    `NormalState(spec, FreeState(spec))`, so that what is drawn without a context varies too. `guidance` 1 is the
    state as it is, 0 the null state's mean, and more than 1 goes beyond the context; it may be set at any time. Of a
    low-rank leaf the factors are guided, not their product, and of a leaf with a domain the real numbers that stand for
    it. `sample` guides in evaluation alone, and never drops; a `generator` repeats the dropping too. Where both states
    are random, the draws of a posterior, which `num_samples=` takes too, are others than those of a call by the same
    seed. A leaf without floats is always that of `state`. `device` and `dtype` are those of a `null` that is made here.

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
        self.check_saved("guidance", self.guidance)
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
        return self._computed(context, batch_size, batched)

    def _computed(
        self, context: Any, batch_size: int | None, batched: bool | None, precise: bool = False
    ) -> dict[str, Moments]:
        of_null, of_state = (s._precise_moments if precise else s._moments for s in (self.null, self.state))
        if context is None:
            null = as_forward(self.null, of_null)(None, batch_size, batched)
            return null | self._constants(None if batched is False else batch_size) if self.spec.constants else null
        given = as_forward(self.state, of_state)(context, batch_size, batched)
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

    @property
    def _latent(self) -> bool:
        return self.state._latent or self.null._latent

    def _posterior(
        self,
        context: Any,
        batch_size: int | None,
        batched: bool | None,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
        *,
        drop: bool = True,
    ) -> Posterior:
        if context is None or not (drop and self.training and self.p > 0):
            if not self._latent:
                return super()._posterior(context, batch_size, batched, generator, rows)
            branch = self.null if context is None else self.state
            if branch is self.state and self.guidance != 1 and not self.training:
                raise ValueError(f"guidance: expected 1 for draws around a latent variable, got {self.guidance}")
            return as_forward(branch, branch._posterior)(context, batch_size, batched, generator, rows)
        given = as_forward(self.state, self.state._posterior)(context, batch_size, batched, generator, rows)
        first = next(iter(self.spec))
        mean = self.spec.unpack(given.mean)[first.name]
        size = rows_of(first, mean)
        null = as_forward(self.null, self.null._posterior)(None, size, size is not None)
        batch = () if size is None else (size,)
        drawn = draw_again(lambda: random(torch.rand, batch, generator, device=mean.device), generator)
        return DroppedPosterior(given, null, drawn < self.p, self.spec)

    def _drawn_leaves(
        self, context: Any, batch_size: int | None, batched: bool | None, generator: Any, rows: Tensor | None
    ) -> dict[str, Tensor]:
        if context is None or not (self.training and self.p > 0):
            return super()._drawn_leaves(context, batch_size, batched, generator, rows)
        given = of_rows(self._moments, self.spec, context, batch_size, batched, rows, False)
        null, first = self._null_beside(given), next(iter(self.spec))
        mean = given[first.name].mean
        batch = mean.shape[: mean.ndim - len(first.shape)]  # (B,), or () without a batch
        drop = draw_again(lambda: random(torch.rand, batch, generator, device=mean.device), generator) < self.p
        leaves = {leaf.name: given[leaf.name].mean for leaf in self.spec.constants}
        for leaf in self.spec.floats:
            chosen = drop.reshape(*batch, *(1 for _ in leaf.shape))
            with_context, without = (draw(moments[leaf.name], generator) for moments in (given, null))
            leaves[leaf.name] = torch.where(chosen, without, with_context)
        return leaves

    def _null_beside(self, given: dict[str, Moments]) -> dict[str, Moments]:
        """The null state's moments for the batch that the context turned out to have."""
        first = next(iter(self.spec))
        size = rows_of(first, given[first.name].mean)
        return as_forward(self.null, self.null._moments)(None, size, size is not None)


class DrawsOfBranches(NamedTuple):
    """What a `DroppedPosterior` has drawn where a branch has a latent variable: of all rows, by either branch."""

    given: Any
    null: Any


@dataclass
class DroppedPosterior(Posterior):
    """Rows with a context, and rows whose context was dropped, (B,) True in `dropped`: these have the null state's.

    `drawn` is the state, or where a branch has a latent variable the draws of both branches, because one state may have
    several z, or none. Log-densities are those of the branch that each row has, of its state or its z.
    """

    given: Posterior
    null: Posterior
    dropped: Tensor
    spec: StateSpec
    drawn: Any = None

    @property
    def mean(self) -> State:
        return self._chosen(self.given.mean, self.null.mean)

    def rsample(self, generator: torch.Generator | None = None) -> State:
        state = self._chosen(self.given.rsample(generator), self.null.rsample(generator))
        return self._remembered(state)

    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> State:
        draws = [branch.sample(num_samples, generator) for branch in (self.given, self.null)]
        return self._remembered(self._chosen(*draws, copies=num_samples))

    def _remembered(self, state: State) -> State:
        self.drawn = DrawsOfBranches(self.given.drawn, self.null.drawn) if self._latent else state
        return state

    @property
    def _latent(self) -> bool:
        return not all(isinstance(branch, NormalPosterior) for branch in (self.given, self.null))

    def _chosen(self, given: State, null: State, copies: int = 1) -> State:
        drop = self._rows(copies)
        with_context, without = self.spec.unpack(given), self.spec.unpack(null)
        leaves = {leaf.name: with_context[leaf.name] for leaf in self.spec.constants}
        for leaf in self.spec.floats:
            chosen = drop.reshape(*drop.shape, *(1 for _ in leaf.shape))
            leaves[leaf.name] = torch.where(chosen, without[leaf.name], with_context[leaf.name])
        return pack(self.spec.tree, leaves)

    def _rows(self, copies: int) -> Tensor:
        one = copies == 1 or not self.dropped.ndim  # of one example the same flag serves all draws
        return self.dropped if one else self.dropped.repeat_interleave(copies, 0)

    def kl_per_unit(self, prior: Prior = None) -> dict[str, Tensor]:
        given, null = self.given.kl_per_unit(prior), self.null.kl_per_unit(prior)
        units = {}
        for name in {**given, **null}:
            like = given[name] if name in given else null[name]
            drop = self.dropped.reshape(*self.dropped.shape, *(1 for _ in range(self.axes[name])))
            branches = [branch.get(name, torch.zeros_like(like)) for branch in (null, given)]
            units[name] = torch.where(drop, *branches)
        return units

    def log_prob(self, drawn: Any) -> Tensor:
        return self._each(drawn, lambda branch, draws: branch.log_prob(draws))

    def log_prior(self, drawn: Any, prior: Prior = None) -> Tensor:
        return self._each(drawn, lambda branch, draws: branch.log_prior(draws, prior))

    def _each(self, drawn: Any, density: Callable[[Posterior, Any], Tensor]) -> Tensor:
        if self._latent and not isinstance(drawn, DrawsOfBranches):
            expected = "the draws of both branches, as `drawn` has them, beside a latent variable"
            raise TypeError(f"drawn: expected {expected}, got {type(drawn).__name__}")
        draws = drawn if self._latent else DrawsOfBranches(drawn, drawn)
        pairs = ((self.null, draws.null), (self.given, draws.given))
        branches = [density(branch, of_branch) if branch.has_noise else None for branch, of_branch in pairs]
        like = next(branch for branch in branches if branch is not None)
        branches = [torch.zeros_like(like) if branch is None else branch for branch in branches]
        return torch.where(self._rows(like.numel() // max(self.dropped.numel(), 1)), *branches)

    @property
    def has_noise(self) -> bool:
        return self.given.has_noise or self.null.has_noise

    @property
    def axes(self) -> dict[str, int]:
        return {**self.null.axes, **self.given.axes}


def _unflatten(parts: Iterable[Any], spec: Any) -> DroppedPosterior:
    given, null, dropped, drawn = parts
    return DroppedPosterior(given, null, dropped, spec, drawn)


pytree.register_pytree_node(DroppedPosterior, lambda q: ([q.given, q.null, q.dropped, q.drawn], q.spec), _unflatten)

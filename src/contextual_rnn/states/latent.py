"""A latent initial state: a few random numbers, and a network that makes the state of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from contextual_rnn._numbers import check_size
from contextual_rnn._sharded import as_forward, gathered
from contextual_rnn.spec.leaf import Leaf, rows_of
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.tree import State
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.context import ContextState
from contextual_rnn.states.moments import Moments
from contextual_rnn.states.normal import NormalState
from contextual_rnn.states.normal_posterior import NormalPosterior
from contextual_rnn.states.posterior import Posterior
from contextual_rnn.states.priors import Prior


class LatentState(InitialState):
    """h0 = decoder(z) with z ~ N(g(context), sigma^2) of a few dimensions.

        h0 = LatentState(gru, encoder, 8)                       # decoder(z) = W z + b, one head for every leaf
        q = h0.posterior(context)
        output, _ = gru(x, q.rsample())
        loss = nll + q.kl()                                     # of z; q.drawn is z, (B, 8)

    Training draws z; evaluation takes its mean. `encoder` is the context network, and `decoder` a network from z,
    (B, size), to the features of the heads, by default z itself. `scale`, `min_scale` and `scale_from_context` are
    those of z, as in `NormalState`. `latent` is the `NormalState` of z, and `decode` makes states of any z, such as
    points of a path. `device` and `dtype` are those of what is made here.

    Raises as `NormalState` and `ContextState` do, TypeError or ValueError for a `size` that is no positive int.
    Source: the initial condition of LFADS (Pandarinath et al. 2018), with the dimension of z free.
    """

    _latent = True

    def __init__(
        self,
        network: nn.Module | StateSpec,
        encoder: nn.Module,
        size: int,
        decoder: nn.Module | None = None,
        *,
        scale: float = 0.25,
        min_scale: float = 0.0,
        scale_from_context: bool = True,
        features: int | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(network, device=device, dtype=dtype)
        size = check_size("size", size)
        spec = StateSpec(Leaf("z", (size,)), dtype=self.spec.dtype, device=self.spec.device)
        options: Any = {"scale": scale, "min_scale": min_scale, "scale_from_context": scale_from_context}
        self.latent = NormalState(spec, encoder, features=features, **options)
        width = size if decoder is None else None
        self.decoder = ContextState(self.spec, nn.Identity() if decoder is None else decoder, features=width)

    @property
    def reads_context(self) -> bool:
        return self.latent.reads_context

    def decode(self, z: Tensor) -> State:
        """The state of z, (B, size), or of one example (size,), as the network takes it; errors as of `forward`."""
        return gathered(self, self.decoder)(z)

    def posterior(
        self,
        context: Any = None,
        batch_size: int | None = None,
        *,
        batched: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> LatentPosterior:
        """As for every state; of its result `latent` is the distribution of z."""
        posterior = super().posterior(context, batch_size, batched=batched, generator=generator)
        assert isinstance(posterior, LatentPosterior)
        return posterior

    def log_prob(self, state: Any, context: Any = None) -> Tensor:
        """log N(z; g(context), sigma^2) of z, (B, size), in the place of a state; errors as of `Posterior.log_prob`."""
        return self.latent.log_prob(state, context)

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        """The state of the mean of z, without noise: the distribution of the state itself is not normal."""
        moments = as_forward(self.latent, self.latent._moments)(context, batch_size, batched)
        mean = moments["z"].mean
        size = rows_of(next(iter(self.latent.spec)), mean)
        return as_forward(self.decoder, self.decoder._moments)(mean, size, size is not None)

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
        latent = as_forward(self.latent, self.latent._posterior)(context, batch_size, batched, generator, rows)
        assert isinstance(latent, NormalPosterior)
        return LatentPosterior(latent, self.decode)

    def _constants(self, batch_size: int | None) -> dict[str, Moments]:
        return self.decoder._constants(batch_size)

    def reset_parameters(self) -> None:
        self.latent.reset_parameters()
        self.decoder.reset_parameters()

    def extra_repr(self) -> str:
        return self.spec.describe()


@dataclass
class LatentPosterior(Posterior):
    """z ~ N(mean, scale^2) and the state that a network makes of it, h(0) = decode(z).

    `latent` is the distribution of z, whose `mean` and draws are (B, k). `drawn` is the last z.
    """

    latent: NormalPosterior
    decode: Callable[[Tensor], State] = field(repr=False)

    @property
    def drawn(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.latent.drawn

    @property
    def mean(self) -> State:
        return self.decode(self.latent.mean)

    def rsample(self, generator: torch.Generator | None = None) -> State:
        return self.decode(self.latent.rsample(generator))

    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> State:
        return self.decode(self.latent.sample(num_samples, generator))

    def kl_per_unit(self, prior: Prior = None) -> dict[str, Tensor]:
        return self.latent.kl_per_unit(prior)

    def log_prob(self, drawn: Any) -> Tensor:
        return self.latent.log_prob(drawn)

    def log_prior(self, drawn: Any, prior: Prior = None) -> Tensor:
        return self.latent.log_prior(drawn, prior)

    @property
    def has_noise(self) -> bool:
        return True

    @property
    def axes(self) -> dict[str, int]:
        return self.latent.axes


pytree.register_pytree_node(
    LatentPosterior, lambda q: ([q.latent], q.decode), lambda parts, decode: LatentPosterior(*parts, decode=decode)
)

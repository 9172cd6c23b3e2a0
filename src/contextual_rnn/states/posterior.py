"""The distribution of an initial state, from one pass of its context network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import NOT_NEGATIVE, check_number
from contextual_rnn.spec.tree import State
from contextual_rnn.states.priors import Prior


class Posterior(ABC):
    """The distribution of an initial state given a context: `state.posterior(context)`.

        q = state.posterior(context)
        output, _ = network(x, q.rsample())
        loss = nll + beta * q.kl()             # warm-up: beta = min(1, epoch / 50)

    One pass of the context network serves all methods. The latent variable is the state itself or, of a
    `LatentState`, z. `drawn` is the last draw of it, as `log_prob` takes it; None before the first.
    """

    drawn: Any = None

    @property
    @abstractmethod
    def mean(self) -> State:
        """The state of the mean of the latent variable, as the network takes it."""

    @abstractmethod
    def rsample(self, generator: torch.Generator | None = None) -> State:
        """A draw for every row, through which gradients flow, as the network takes it."""

    @abstractmethod
    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> State:
        """`num_samples` draws a row, through which gradients flow too: row b * num_samples + s is draw s of row b.

        Raises ValueError or TypeError for a num_samples that is no positive int.
        """

    @abstractmethod
    def kl_per_unit(self, prior: Prior = None) -> dict[str, Tensor]:
        """KL(posterior || prior) in nats of every unit of every leaf that has noise, (B, *shape); errors as `kl`."""

    @abstractmethod
    def log_prob(self, drawn: Any) -> Tensor:
        """The log-density of draws of the latent variable, summed over leaves and units, in nats, (B,).

        Draws of B * S rows, as `sample` makes them, give (B * S,). That of a leaf with a domain counts the change of
        variables: log N(u; mean, scale^2) - log |dleaf / du|, u the real number that stands for it. Leaves without
        noise are ignored. Raises TypeError or ValueError for draws of another structure or shape, of no floats, with
        NaN, or outside their domain.
        """

    @abstractmethod
    def log_prior(self, drawn: Any, prior: Prior = None) -> Tensor:
        """The log-density of draws under a prior; shapes as of `log_prob`, priors and errors as of `kl`.

        Importance-weighted bound of S samples: (log_likelihood + q.log_prior(z) - q.log_prob(z)).view(B, S)
        .logsumexp(1) - log(S), with z = q.drawn after `q.sample(S)`.
        """

    @property
    @abstractmethod
    def has_noise(self) -> bool:
        """Whether anything is drawn."""

    def kl(self, prior: Prior = None, *, free_bits: float = 0.0) -> Tensor:
        """KL(posterior || prior) in nats, summed over leaves and units, (B,), or () without a batch.

        `prior` is None for N(0, 1); (mean, scale), each a number, or a tensor or parameter that broadcasts to
        (B, *shape); a dict from names of leaves to such pairs; another initial state for the same variable that reads
        no context, or its `posterior(...)`: learned priors. Of a leaf with a domain it is the prior of the real numbers
        that stand for it, and the KL is that of the leaf too. Leaves without noise add nothing.

        With `free_bits`, in nats, a unit whose mean over the batch is lower counts as that number, without gradient:
        the mean is sum_units max(free_bits, mean_b KL) (Kingma et al. 2016).

        In float32 at least, under autocast too. Raises TypeError or ValueError for a prior of another kind, other
        leaves or shapes, a mean that is not finite, a scale that is not positive, and a negative free_bits.
        """
        free_bits = check_number("free_bits", free_bits, *NOT_NEGATIVE)
        units = self.kl_per_unit(prior)
        if free_bits:
            units = {name: _at_least(free_bits, unit, self.axes[name]) for name, unit in units.items()}
        return sum_units(units, self.axes)

    @property
    @abstractmethod
    def axes(self) -> dict[str, int]:
        """How many axes the units of each leaf have."""


def sum_units(units: Mapping[str, Tensor], axes: Mapping[str, int]) -> Tensor:
    """Units summed over leaves and units, (B,) or ()."""
    sums = [unit.sum(dim=tuple(range(-axes[name], 0))) for name, unit in units.items()]
    return torch.stack(torch.broadcast_tensors(*sums)).sum(0)


def _at_least(least: float, unit: Tensor, axes: int) -> Tensor:
    """`least` where the mean over the batch is below it."""
    mean = unit.mean(0, keepdim=True) if unit.ndim > axes else unit
    return torch.where(mean < least, torch.full_like(unit, least), unit)

"""Independent normal distributions of the units of a state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils import _pytree as pytree

from contextual_rnn._numbers import check_size, readable
from contextual_rnn._precision import wide
from contextual_rnn._tensors import check_floats
from contextual_rnn.spec.leaf import Leaf, rows_of
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.tree import State, pack
from contextual_rnn.states.moments import Moments, draw, draws, normal
from contextual_rnn.states.posterior import Posterior, sum_units
from contextual_rnn.states.priors import Prior, prior_of


@dataclass
class NormalPosterior(Posterior):
    """Independent normal distributions of the units of a state, N(mean, scale^2), or of a latent variable.

    `moments` are of each leaf, in float32 at least where they are to be; `dtype` is that of draws where it is narrower.
    """

    spec: StateSpec
    moments: dict[str, Moments]
    dtype: torch.dtype | None = None
    drawn: Any = None

    @property
    def mean(self) -> State:
        return self._packed({name: leaf.mean for name, leaf in self.moments.items()})

    def rsample(self, generator: torch.Generator | None = None) -> State:
        self.drawn = self._packed({name: draw(leaf, generator) for name, leaf in self.moments.items()})
        return self.drawn

    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> State:
        num_samples = check_size("num_samples", num_samples)
        self.drawn = self._packed(draws(self.spec, self.moments, num_samples, generator))
        return self.drawn

    def _packed(self, leaves: Mapping[str, Tensor]) -> State:
        leaves = self.spec.constrain(leaves)
        if self.dtype is not None:
            leaves = {n: leaf.to(self.dtype) if leaf.is_floating_point() else leaf for n, leaf in leaves.items()}
        return pack(self.spec.tree, leaves)

    @property
    def distribution(self) -> dict[str, Normal]:
        """The distribution of every leaf that has noise, of batch shape (B, *shape).

        Of a leaf with a domain it is that of the real numbers that stand for it.

        Raises ValueError for a mean that is not finite and a scale that is not positive, as torch's distributions do.
        """
        distributions: dict[str, Normal] = {}
        for leaf in self.random_leaves:
            moments = self.moments[leaf.name]
            validate = True if readable(moments.mean) else None  # torch.compile leaves torch's default at False
            try:
                distributions[leaf.name] = normal(moments, validate_args=validate)
            except ValueError as error:
                expected = f"finite means and positive scales in leaf {leaf.name!r}"
                raise ValueError(f"context: expected one that gives {expected}, got others") from error
        return distributions

    @property
    def random_leaves(self) -> list[Leaf]:
        """The leaves that have noise; ValueError for complex numbers, whose density is not defined here."""
        leaves = [leaf for leaf in self.spec.floats if self.moments[leaf.name].scale is not None]
        for leaf in leaves:
            if self.moments[leaf.name].mean.is_complex():
                raise ValueError(f"state: expected a random state of real numbers, got complex ones in {leaf.name!r}")
        return leaves

    @property
    def has_noise(self) -> bool:
        return any(leaf.scale is not None for leaf in self.moments.values())

    def kl_per_unit(self, prior: Prior = None) -> dict[str, Tensor]:
        leaves = self.random_leaves
        priors = prior_of(prior, leaves, self.moments)
        units = {}
        for leaf in leaves:
            # Unchecked, other than torch's own: a NaN shows in the loss, and on a GPU every check waits for the device.
            ours, (mean, scale) = normal(self.moments[leaf.name], validate_args=False), priors[leaf.name]
            theirs = Normal(mean, scale, validate_args=False)
            units[leaf.name] = kl_divergence(ours, theirs)
        return units

    def log_prob(self, drawn: Any) -> Tensor:
        densities = self.distribution
        return self._log_prob(drawn, {name: (density.loc, density.scale) for name, density in densities.items()})

    def log_prior(self, drawn: Any, prior: Prior = None) -> Tensor:
        return self._log_prob(drawn, prior_of(prior, self.random_leaves, self.moments))

    def _log_prob(self, drawn: Any, parameters: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        values, terms = self.spec.unpack(drawn), {}
        self.spec.check_domains(values, "state", limits=False)
        numbers = self.spec.unconstrain({name: wide(value) for name, value in values.items()})
        for leaf in self.spec.floats:
            value = values[leaf.name]
            check_floats("state", value)
            if readable(value) and bool(value.isnan().any()):
                raise ValueError(f"state: expected numbers in leaf {leaf.name!r}, got NaN")
            if leaf.name not in parameters:
                continue
            mean = self.moments[leaf.name].mean
            if value.device != mean.device:
                raise ValueError(f"state: expected leaf {leaf.name!r} on {mean.device}, got one on {value.device}")
            copies = _copies(leaf, value, mean)
            mean, scale = (_repeated(leaf, part, copies) for part in parameters[leaf.name])
            terms[leaf.name] = Normal(mean, scale).log_prob(numbers[leaf.name])
        for leaf, domain in self.spec.bounded:
            if leaf.name in terms:
                terms[leaf.name] = terms[leaf.name] - domain.log_slope(numbers[leaf.name])
        return sum_units(terms, self.axes)

    @property
    def axes(self) -> dict[str, int]:
        return {leaf.name: len(leaf.shape) for leaf in self.spec}


def _copies(leaf: Leaf, value: Tensor, mean: Tensor) -> int:
    """How many rows of `value` each row of `mean` has."""
    rows, ours = rows_of(leaf, value), rows_of(leaf, mean)
    if ours is None or rows == ours:
        return 1
    if not rows or not ours or rows % ours:
        raise ValueError(f"state: expected leaf {leaf.name!r} of {ours} rows or a multiple, got {rows}")
    return rows // ours


def _repeated(leaf: Leaf, part: Tensor, copies: int) -> Tensor:
    return part if copies == 1 or rows_of(leaf, part) is None else part.repeat_interleave(copies, 0)


def _unflatten(parts: Iterable[Any], context: Any) -> NormalPosterior:
    moments, drawn = parts
    return NormalPosterior(context[0], moments, context[1], drawn)


# As results of modules: DDP and FSDP look for the tensors in them, and torch.compile passes them on.
pytree.register_pytree_node(NormalPosterior, lambda q: ([q.moments, q.drawn], (q.spec, q.dtype)), _unflatten)

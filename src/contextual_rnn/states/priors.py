"""Priors of a posterior: numbers, tensors, parameters, or another state's distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import POSITIVE, check_held, check_number, listed, readable, shortened
from contextual_rnn._precision import wide
from contextual_rnn._tensors import check_floats
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.states.moments import Moments, as_tensor

# None, (mean, scale), a dict from leaves to such pairs, an InitialState or a Posterior.
Prior = Any
_EXPECTED = "None, (mean, scale), a dict from names of leaves to such pairs, an InitialState or a Posterior"


def prior_of(prior: Prior, leaves: Sequence[Leaf], moments: Mapping[str, Moments]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and scale of the prior of each leaf, of the shape of its moments, which they are compared with.

    Raises as `Posterior.kl`.
    """
    prior = (0.0, 1.0) if prior is None else prior
    if hasattr(prior, "posterior"):  # an initial state
        if prior.reads_context:
            kind = type(prior).__name__
            raise ValueError(f"prior: expected state.posterior(context), as a {kind} reads a context, got the state")
        prior = prior.posterior()
    prior = getattr(prior, "latent", prior)
    if hasattr(prior, "moments"):  # a posterior
        prior = {name: leaf for name, leaf in prior.moments.items() if leaf.scale is not None}
        _check_names(prior, leaves)
    elif isinstance(prior, Mapping):
        _check_names(prior, leaves)
    else:
        prior = {leaf.name: prior for leaf in leaves}
    return {leaf.name: _pair(leaf, prior[leaf.name], wide(moments[leaf.name].mean)) for leaf in leaves}


def _check_names(prior: Mapping[str, Any], leaves: Sequence[Leaf]) -> None:
    names = [leaf.name for leaf in leaves]
    if set(prior) != set(names):
        raise ValueError(f"prior: expected one for each of {listed(names)}, got {shortened(list(prior))}")


def _pair(leaf: Leaf, pair: Any, ours: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"prior: expected {_EXPECTED}, got {shortened(pair)}")
    mean, scale = pair
    if not isinstance(mean, Tensor):
        check_held("prior_mean", check_number("prior_mean", mean), ours.dtype)
    if not isinstance(scale, Tensor):
        check_held("prior_scale", check_number("prior_scale", scale, *POSITIVE), ours.dtype)
    return _part("prior_mean", leaf, mean, ours), _part("prior_scale", leaf, scale, ours)


def _part(name: str, leaf: Leaf, part: Tensor | float, ours: Tensor) -> Tensor:
    """A part of a prior, (B, *shape) or `shape`."""
    if not isinstance(part, Tensor):
        return as_tensor(part, ours).expand(ours.shape)
    check_floats(name, part)
    if part.device != ours.device:
        raise ValueError(f"{name}: expected a tensor on {ours.device}, as the state, got one on {part.device}")
    try:
        shape = torch.broadcast_shapes(part.shape, ours.shape)
    except RuntimeError:
        shape = ()
    if shape[-len(leaf.shape) :] != leaf.shape or len(shape) > len(leaf.shape) + 1:
        expected = tuple(ours.shape)
        raise ValueError(f"{name}: expected a shape that broadcasts to {expected}, got {tuple(part.shape)}")
    if name == "prior_scale" and readable(part) and not part.is_cuda and not bool((part > 0).all()):  # a GPU would wait
        raise ValueError(f"{name}: expected positive numbers, got {shortened(part.tolist())}")
    return wide(part).expand(shape)

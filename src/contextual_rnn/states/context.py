"""A contextual initial state (paper, Eq. 2c): the output of a context network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import check_flag, check_function
from contextual_rnn._saved_numbers import function_name
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.states._heads import Heads, feature_count, features_of
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.moments import Moments


class ContextState(InitialState):
    """h0 = g(context) (paper, Eq. 2c): a context network and one linear head for every leaf.

    leaf = activation(W_leaf encoder(context) + b_leaf). `encoder` maps a context to features (B, F), or (F,) for one
    example; F is read off its last layer, or given as `features` where that cannot be done. It is the attribute `net`.
    With `zero_init` the heads start at what the network itself starts from, which is zero unless its spec says
    otherwise: a trained network's output does not change by a bit until training moves them (a leaf with a domain
    starts there to rounding). A low-rank factor keeps a random bias, for two zero factors would never move. A head is
    of its leaf's dtype; that of a complex leaf gives real and imaginary parts, and that of a leaf with a domain the
    real numbers that stand for it (see `Leaf`). `device` and `dtype` are those of the heads.

    Raises TypeError for an `encoder` that is no module, an `activation` that is no function or a `zero_init` that is
    not True or False, ValueError where F is neither given nor to be read off, for `zero_init` beside a leaf that starts
    at a limit of its domain, and in the forward pass for an `activation` that changes the shape.
    """

    reads_context = True

    def __init__(
        self,
        network: nn.Module | StateSpec,
        encoder: nn.Module,
        *,
        features: int | None = None,
        zero_init: bool = False,
        activation: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(network, device=device, dtype=dtype)
        if activation is not None:
            check_function("activation", activation, "a function or None")
        check_flag("zero_init", zero_init)
        self.net = encoder  # under this name the state_dicts and files of users have its tensors
        self.features = feature_count(encoder, features)
        self.activation = activation
        self.heads = Heads(self.spec, self.features, constant=self.spec.learned_start if zero_init else None)
        self._keep_zeros()

    def saved_words(self) -> dict[str, str | None]:
        return {"activation": function_name(self.activation)}

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        means, features = self._means(context, batch_size, batched)
        moments = {name: Moments(mean, None) for name, mean in means.items()}
        if self.spec.constants:
            moments |= self._constants(features.shape[0] if features.ndim == 2 else batch_size)
        return moments

    def _means(
        self, context: Any, batch_size: int | None, batched: bool | None, precise: bool = False
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The leaves of floats, with `precise` in float32 at least, and their features, (B, F) or (F,)."""
        features = features_of(self.net, context, self.features, batch_size, batched)
        leaves = self.heads(features, batch_size, precise)
        if self.activation is None:
            return leaves, features
        activated = {name: self.activation(leaf) for name, leaf in leaves.items()}
        for name, leaf in activated.items():
            if leaf.shape != (expected := leaves[name].shape):
                raise ValueError(f"activation: expected shape {tuple(expected)} kept, got {tuple(leaf.shape)}")
        return activated, features

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.heads.reset_parameters()

    def extra_repr(self) -> str:
        activation = f", activation={_name(self.activation)}" if self.activation is not None else ""
        return f"{self.spec.describe()}, features={self.features}{activation}"


def _name(function: Callable[[Tensor], Tensor]) -> str:
    return getattr(function, "__name__", None) or type(function).__name__

"""A contextual initial state (paper, Eq. 2c): the output of a context network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from contextual_rnn.state_spec import StateSpec
from contextual_rnn.states._heads import Heads, feature_count, features_of
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.moments import Moments


class ContextState(InitialState):
    """h0 = g(context) (paper, Eq. 2c): a context network and one linear head for every leaf.

    leaf = activation(W_leaf net(context) + b_leaf). `net` maps a context to features (B, F), or (F,) for one example;
    F is read off its last layer, or given as `features` where that cannot be done. With `zero_init` the heads start at
    zero, so that a trained network's output does not change by a bit until training moves them; a low-rank factor
    keeps a random bias, for two zero factors would never move.

    Raises TypeError for a `net` that is no module or an `activation` that is no function, ValueError where F is
    neither given nor to be read off, and in the forward pass for an `activation` that changes the shape.
    """

    def __init__(
        self,
        network: nn.Module | StateSpec,
        net: nn.Module,
        *,
        features: int | None = None,
        zero_init: bool = False,
        activation: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(network)
        if activation is not None and not callable(activation):
            raise TypeError(f"activation: expected a function or None, got {type(activation).__name__}")
        self.net = net
        self.features = feature_count(net, features)
        self.activation = activation
        self.heads = Heads(self.spec, self.features, constant=0.0 if zero_init else None)

    @property
    def reads_context(self) -> bool:
        return True

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        means, _ = self.means(context, batch_size, batched)
        return {name: Moments(mean, None) for name, mean in means.items()}

    def means(
        self, context: Any, batch_size: int | None, batched: bool | None, precise: bool = False
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The leaves, with `precise` in float32 at least, and the features (B, F) or (F,) that they are made of."""
        features = features_of(self.net, context, self.features, batch_size, batched)
        leaves = self.heads(features, batch_size, precise)
        if self.activation is None:
            return leaves, features
        activated = {name: self.activation(leaf) for name, leaf in leaves.items()}
        for name, leaf in activated.items():
            if leaf.shape != (expected := leaves[name].shape):
                raise ValueError(f"activation: expected shape {tuple(expected)} kept, got {tuple(leaf.shape)}")
        return activated, features

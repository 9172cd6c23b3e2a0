"""Loss and gradients of the retrieval model natively: the numbers of autograd, in a third of the time."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn import ContextState, FastWeightsRNN, LowRank
from contextual_rnn.experiments.training.flat_adam import FlatAdam
from contextual_rnn.ops._fast_weights.classification import Classification, Head, Heads, Parameters

LETTERS = len(string.ascii_lowercase)


class RetrievalStep:
    """Loss and gradients of a `RetrievalModel`, whose parameters `optimizer` keeps in one vector.

    A contextual state of one linear layer is computed natively too, once for each of the 26 letters; other states are
    differentiated by autograd, which then sees the state alone.
    """

    def __init__(self, model: Any, optimizer: FlatAdam):
        self.model, self.optimizer = model, optimizer
        self._initial_state = model.rnn.initial_state
        self._learned = list(self._initial_state.parameters())
        self._constant: dict[int, Any] = {}
        parameters = _parameters(model)
        grads = Parameters(*(None if parameter is None else optimizer.grad(parameter) for parameter in parameters))  # pyright: ignore[reportArgumentType]
        heads = _heads(self._initial_state, lambda parameter: parameter)
        head_grads = _heads(self._initial_state, optimizer.grad)
        self._classification = Classification(
            parameters, grads, model.rnn.network.options, heads, head_grads, LETTERS if heads else 0
        )
        self._native_state = heads is not None

    @staticmethod
    def serves(model: Any, batch: tuple[Tensor, ...]) -> bool:
        """Whether the native step applies; otherwise autograd runs."""
        network = model.rnn.network
        if not isinstance(network, FastWeightsRNN) or model.context_input:
            return False
        return Classification.serves(
            model.embedding.weight, batch[0].shape[1], network.hidden_size, network.options, network.backend
        )

    def __call__(self, tokens: Tensor, targets: Tensor, generator: torch.Generator) -> float:
        """Return the loss; if it is finite, the gradients are written where the optimizer reads them."""
        if self._native_state:
            states = self.model.context_token(tokens) if self.model.shuffled_context else None
            return self._classification(tokens, targets, states=states).loss.item()
        (h0, a0), rows = self._states(tokens, generator)
        result = self._classification(tokens, targets, h0, a0, rows)
        loss = result.loss.item()
        if self._learned and math.isfinite(loss):
            a, left, right = (None, *a0) if isinstance(a0, LowRank) else (a0, None, None)
            self._differentiate_state([h0, a, left, right], result.initial)
        return loss

    def _states(self, tokens: Tensor, generator: torch.Generator) -> tuple[Any, Tensor | None]:
        """Initial states, and the index of each sequence's own where sequences share them, else None."""
        state, batch_size = self._initial_state, tokens.shape[0]
        if not self._learned:
            if batch_size not in self._constant:
                self._constant[batch_size] = state(batch_size=batch_size)
            return self._constant[batch_size], None
        return self.model.initial_states(tokens, generator)

    def _differentiate_state(self, leaves: list[Tensor | None], grads: list[Tensor | None]) -> None:
        pairs = [
            (leaf, grad) for leaf, grad in zip(leaves, grads, strict=True) if leaf is not None and grad is not None
        ]
        embedding = self.model.embedding.weight
        *of_state, of_embedding = torch.autograd.grad(
            [leaf for leaf, _ in pairs], [*self._learned, embedding], [grad for _, grad in pairs], allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        for parameter, grad in zip(self._learned, of_state, strict=True):
            self.optimizer.grad(parameter).copy_(grad)
        if self._initial_state.reads_context:
            self.optimizer.grad(embedding).add_(of_embedding)


def _heads(state: Any, of: Callable[[nn.Parameter], Tensor]) -> Heads | None:
    """The layers of a contextual state of one linear layer a leaf, or what `of` gives for them; None of another."""
    if type(state) is not ContextState or type(state.net) is not nn.Identity or state.activation is not None:
        return None
    layers = {name: Head(of(layer.weight), of(layer.bias)) for name, layer in state.heads.layers.items()}  # pyright: ignore[reportArgumentType]
    named = {"h": "h0", "a": "a0", "a_left": "left", "a_right": "right"}
    return Heads(**{named[name]: layer for name, layer in layers.items()})


def _parameters(model: nn.Module) -> Parameters:
    untyped: Any = model
    network = untyped.rnn.network
    return Parameters(
        untyped.embedding.weight, network.weight_ih, network.bias, network.weight_hh, network.norm_weight,
        network.norm_bias, untyped.hidden.weight, untyped.hidden.bias, untyped.readout.weight, untyped.readout.bias,
    )  # fmt: skip

"""xLSTM of transformers, whose cells keep a matrix, a vector and a number for each head in a cache class of its own.

With a forget gate f and an input gate i, both before their activation, and a query q, a key k and a value v,

    m(t) = max(log sigmoid(f(t)) + m(t-1), i(t))
    F(t) = exp(log sigmoid(f(t)) + m(t-1) - m(t))        I(t) = exp(i(t) - m(t))
    C(t) = F(t) C(t-1) + I(t) k(t) v(t)^T        n(t) = F(t) n(t-1) + I(t) k(t)
    y(t) = C(t)^T q(t) / max(|n(t)^T q(t)|, exp(-m(t)))

A state is C(0) alone: n and m scale y, and a norm after each head takes that scale away again. They begin with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.cache_utils import DynamicCache, LinearAttentionLayer
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

CACHE: str = "xLSTMCache"
ARGUMENT: str = "cache"
_PARTS = range(3)  # C, n and m


class _Layer(LinearAttentionLayer):
    not_in_a_state = (1, 2)


def empty_layers(config: PretrainedConfig) -> list[Any]:
    return [_Layer(number_of_states=len(_PARTS)) for _ in range(config.num_hidden_layers)]


def prepare(base: PreTrainedModel) -> None:
    """Let each block begin from copies: the cache's tensors are written into while gradients need them."""
    blocks: Any = base.blocks
    for block in blocks:
        block.register_forward_pre_hook(_from_copies, with_kwargs=True)


def fill(kind: Any, base: PreTrainedModel, cache: DynamicCache) -> Any:
    layers = range(len(cache.layers))
    states = [[cache.get_recurrent_state(number, part) for part in _PARTS] for number in layers]
    first = states[0][0]
    own = kind(base.config, 1 if first is None else len(first), dtype=base.dtype, device=base.device)
    for number, state in enumerate(states):
        zeros = own.rnn_state[number]
        own.rnn_state[number] = tuple(zero if part is None else part for part, zero in zip(state, zeros, strict=True))
    return own


def read_back(own: Any, cache: Any) -> None:
    for number, state in own.rnn_state.items():
        for part in _PARTS:
            cache.update_recurrent_state(state[part], number, part)


def _from_copies(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    inputs, state = (*args, kwargs.get("state"))[:2]
    return (inputs, None if state is None else tuple(part.clone() for part in state)), {}

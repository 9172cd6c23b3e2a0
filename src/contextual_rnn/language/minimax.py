"""MiniMax of transformers, whose lightning attention keeps its state in a cache class of its own.

With a decay w of each head, and a query q, a key k and a value v of each token,

    S(t) = w S(t-1) + k(t) v(t)^T        y(t) = S(t)^T q(t)

From a state transformers takes token after token; without one it takes blocks of tokens, in another order of sums.
"""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicCache, LinearAttentionLayer
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

CACHE: str = "MiniMaxCache"
ARGUMENT: str = "cache"


def empty_layers(config: PretrainedConfig) -> None:
    """Its configuration names the layers."""


def prepare(base: PreTrainedModel) -> None:
    """It replaces its states and does not write into them."""


def fill(kind: Any, base: PreTrainedModel, cache: DynamicCache) -> Any:
    own = kind()
    own.layers = cache.layers  # those of attention, where it writes, are ours
    for number, layer in enumerate(cache.layers):
        state = cache.get_recurrent_state(number) if isinstance(layer, LinearAttentionLayer) else []
        own.set_linear_cache(number, state)
    return own


def read_back(own: Any, cache: Any) -> None:
    for number, layer in enumerate(cache.layers):
        if isinstance(layer, LinearAttentionLayer):
            cache.update_recurrent_state(own.get_linear_cache(number), number)

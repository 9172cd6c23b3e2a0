"""RWKV-7 of the package rwkv7-hf, which reads and fills a cache of its own.

With a decay w, a key k, a value v, a readout r, and a and b that remove what is replaced, each layer computes

    S(t) = S(t-1) (diag(w(t)) + a(t) b(t)^T) + v(t) k(t)^T        y(t) = S(t) r(t)

and mixes every token with the one before it, twice: these two tokens are kept as convolutions that read one. The
package keeps S transposed, keys by values.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, LinearAttentionLayer
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

CACHE: str = "RWKV7Cache"
ARGUMENT: str = "past_key_values"


def empty_layers(config: PretrainedConfig) -> list[Any]:
    return [LinearAttentionLayer(number_of_states=2) for _ in range(config.num_hidden_layers)]


def prepare(base: PreTrainedModel) -> None:
    """Its states are left as they are."""


def fill(kind: Any, base: PreTrainedModel, cache: DynamicCache) -> Any:
    width: int = base.config.hidden_size  # pyright: ignore[reportAttributeAccessIssue]
    states = [cache.get_recurrent_state(number) for number in range(len(cache.layers))]
    own = kind(num_layers=len(states))
    for number, state in enumerate(states):
        if state is not None:
            shifts = [cache.get_conv_state(number, index) for index in range(2)]
            none = torch.zeros(len(state), width, 1, dtype=base.dtype, device=state.device)
            own.set_layer(number, state, *((none if shift is None else shift)[..., 0] for shift in shifts))
    return own


def read_back(own: Any, cache: Any) -> None:
    if own.seen_tokens == 0:  # in training the model keeps nothing
        cache.updated = False
        return
    for number, (state, *shifts) in enumerate(own):
        cache.update_recurrent_state(state, number)
        for index, shift in enumerate(shifts):
            cache.update_conv_state(shift[..., None], number, index, conv_kernel_size=1)

"""RWKV-7 of the package rwkv7-hf, which reads and fills a cache of its own: it is made of ours for each call.

With a decay w, a key k, a value v, a readout r, and a and b that remove what is replaced, each layer computes

    S(t) = S(t-1) (diag(w(t)) + a(t) b(t)^T) + v(t) k(t)^T        y(t) = S(t) r(t)

and mixes every token with the one before it, twice: these two tokens are kept as convolutions that read one. The
package keeps S transposed, keys by values.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import LinearAttentionLayer
from transformers.generation.utils import GenerationMixin

from contextual_rnn._torch_internals import forward_pre_hooks

CACHE = "RWKV7Cache"
NAMES = ("cache", "past_key_values")


def empty_layers(config: PretrainedConfig) -> list[Any] | None:
    """What the layers of RWKV-7 keep, in the classes of transformers; None for a configuration of another family."""
    if config.model_type != "rwkv7":
        return None
    return [LinearAttentionLayer(number_of_states=2) for _ in range(config.num_hidden_layers)]


def translate_caches(model: PreTrainedModel, base: PreTrainedModel) -> None:
    """Let an RWKV-7 `model` of decoder `base` run, and generate, from a DynamicCache; others are left alone."""
    if not hasattr(sys.modules[type(base).__module__], CACHE):
        return
    if all(hook is not _give for hook in forward_pre_hooks(base)):
        base.register_forward_pre_hook(_give, with_kwargs=True)
        base.register_forward_hook(_take_back, with_kwargs=True)
    kind: Any = type(model)
    if isinstance(model, GenerationMixin) and not hasattr(kind.prepare_inputs_for_generation, "original"):
        kind.prepare_inputs_for_generation = _from_our_caches(kind.prepare_inputs_for_generation)


def _is_ours(cache: object) -> bool:
    return isinstance(cache, DynamicCache) and all(isinstance(layer, LinearAttentionLayer) for layer in cache.layers)


def _give(base: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    cache: DynamicCache | None = next((kwargs[name] for name in NAMES if _is_ours(kwargs.get(name))), None)
    if cache is None:
        return args, kwargs
    kwargs = {name: value for name, value in kwargs.items() if name not in NAMES}
    width: int = base.config.hidden_size  # pyright: ignore[reportAttributeAccessIssue]
    states = [cache.get_recurrent_state(number) for number in range(len(cache.layers))]
    own = getattr(sys.modules[type(base).__module__], CACHE)(num_layers=len(states))
    for number, state in enumerate(states):
        if state is not None:
            shifts = [cache.get_conv_state(number, index) for index in range(2)]
            none = torch.zeros(len(state), width, 1, dtype=base.dtype, device=state.device)
            own.set_layer(number, state, *((none if shift is None else shift)[..., 0] for shift in shifts))
    own.given = cache
    return args, {**kwargs, "past_key_values": own}


def _take_back(base: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    own = kwargs.get("past_key_values")
    cache = getattr(own, "given", None)
    if own is None or cache is None:
        return output
    if own.seen_tokens == 0:  # in training the model keeps nothing
        cache.updated = False
        return output
    for number, (state, *shifts) in enumerate(own):
        cache.update_recurrent_state(state, number)
        for index, shift in enumerate(shifts):
            cache.update_conv_state(shift[..., None], number, index, conv_kernel_size=1)
    if isinstance(output, tuple):
        return tuple(cache if part is own else part for part in output)
    output.cache = cache
    return output


def _from_our_caches(prepare: Any) -> Any:
    """`prepare_inputs_for_generation` of a model that knows only its own cache."""

    def prepare_inputs_for_generation(
        self: Any,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if not _is_ours(cache):
            return prepare(self, input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if next_sequence_length is not None:
            input_ids = input_ids[:, -next_sequence_length:]
        prompt = inputs_embeds if kwargs.get("is_first_iteration") else None  # generated tokens have ids
        return {**prepare(self, input_ids, inputs_embeds=prompt, **kwargs), "past_key_values": cache}

    prepare_inputs_for_generation.original = prepare  # pyright: ignore[reportFunctionMemberAccess]
    return prepare_inputs_for_generation

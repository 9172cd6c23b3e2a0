"""Decoders that know only a cache class of their own: theirs is filled from ours for each call, and read back."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.configuration_utils import PretrainedConfig
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn._torch_internals import forward_pre_hooks
from contextual_rnn.language import minimax, rwkv7, xlstm

_ARGUMENTS = ("cache", "past_key_values")


class OwnCache(Protocol):
    """A family with a cache of its own, as a module of this folder describes it."""

    CACHE: str  # the name of the class, beside that of the decoder
    ARGUMENT: str  # of the decoder

    def empty_layers(self, config: PretrainedConfig) -> list[Any] | None:
        """What its layers keep, in the classes of transformers; None where the configuration says it."""
        ...

    def prepare(self, base: PreTrainedModel) -> None:
        """Change what a decoder does with the tensors of its cache; called once."""
        ...

    def fill(self, kind: Any, base: PreTrainedModel, cache: DynamicCache) -> Any:
        """A cache of its class `kind` that holds what ours does."""
        ...

    def read_back(self, own: Any, cache: Any) -> None:
        """Put the states after a call into ours."""
        ...


_FAMILIES: dict[str, OwnCache] = {"minimax": minimax, "rwkv7": rwkv7, "xlstm": xlstm}


class EmptyCache(DynamicCache):
    """A cache for what the layers of a model keep, in the classes of transformers, whatever class its own cache has."""

    is_ours = True

    def __init__(self, config: PretrainedConfig):
        super().__init__(config=config)
        family = _FAMILIES.get(config.model_type)
        self.layers = (None if family is None else family.empty_layers(config)) or self.layers


def translate_caches(model: PreTrainedModel, base: PreTrainedModel) -> None:
    """Let a `model` whose decoder `base` has a cache of its own run, and generate, from ours; others are left alone."""
    family = _FAMILIES.get(base.config.model_type)
    if family is None or not hasattr(sys.modules[type(base).__module__], family.CACHE):
        return
    if all(hook is not _give for hook in forward_pre_hooks(base)):
        family.prepare(base)
        base.register_forward_pre_hook(_give, with_kwargs=True)
        base.register_forward_hook(_take_back, with_kwargs=True)
    kind: Any = type(model)
    generates = isinstance(model, GenerationMixin) and family.ARGUMENT != "cache"
    if generates and not hasattr(kind.prepare_inputs_for_generation, "original"):
        kind.prepare_inputs_for_generation = _from_our_caches(kind.prepare_inputs_for_generation)


def _is_ours(cache: object) -> bool:
    return getattr(cache, "is_ours", False)


def _give(base: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    cache: DynamicCache | None = next((kwargs[name] for name in _ARGUMENTS if _is_ours(kwargs.get(name))), None)
    if cache is None:
        return args, kwargs
    family = _FAMILIES[base.config.model_type]
    own = family.fill(getattr(sys.modules[type(base).__module__], family.CACHE), base, cache)
    own.given = cache
    kwargs = {name: value for name, value in kwargs.items() if name not in _ARGUMENTS}
    return args, {**kwargs, family.ARGUMENT: own}


def _take_back(base: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    family = _FAMILIES[base.config.model_type]
    own = kwargs.get(family.ARGUMENT)
    cache = getattr(own, "given", None)
    if own is None or cache is None:
        return output
    family.read_back(own, cache)
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

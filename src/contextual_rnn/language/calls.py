"""Calls of a language model that cannot be right when it begins from a state: refused before the model runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn._numbers import readable
from contextual_rnn._torch_internals import forward_pre_hooks
from contextual_rnn.language.cache import ANOTHER_MODEL, InitialCache

_CACHES = ("cache", "past_key_values", "cache_params")  # the last two are older names
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")  # where packed sequences begin


def watch(base: PreTrainedModel) -> None:
    """Check every call of `base` that has an `InitialCache`; others are left alone."""
    if all(hook is not check_call for hook in forward_pre_hooks(base)):
        base.register_forward_pre_hook(check_call, with_kwargs=True, prepend=True)  # it looks for our own cache


def check_call(base: PreTrainedModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a call from a state that transformers would answer with other numbers, without a word."""
    names = list(inspect.signature(base.forward).parameters)
    arguments = {**{names[place]: value for place, value in enumerate(args[: len(names)])}, **kwargs}
    cache = cache_of(arguments)
    if cache is None:
        return
    kind = type(base).__name__
    if not cache.is_of(base):
        raise ValueError(ANOTHER_MODEL)
    if base.training and torch.is_grad_enabled() and _checkpointed(base):
        raise ValueError(
            f"model: expected {kind} without gradient checkpointing, which drops the cache and with it the state, got "
            "one with it; call model.activation_checkpointing_disable()"
        )
    if arguments.get("use_cache") is False:
        raise ValueError("use_cache: expected True or None, as the state is in the cache, got False")
    if not cache.updated:
        raise ValueError(
            f"cache: expected one to go on from, got one that {kind} left where it was, as it keeps no state in "
            "training or without use_cache; call model.eval(), or begin with a new cache"
        )
    for name in _PACKED:
        if arguments.get(name) is not None:
            raise ValueError(f"{name}: expected None, as packed sequences would not begin from the state each, got one")
    ids = arguments.get("input_ids")
    tokens = arguments.get("inputs_embeds") if ids is None else ids
    if isinstance(tokens, Tensor):
        name = "inputs_embeds" if ids is None else "input_ids"
        check_tokens(name, tokens)
        if tokens.shape[0] != cache.rows:
            raise ValueError(f"{name}: expected {cache.rows} rows, as the state has, got {tokens.shape[0]}")
        mask = arguments.get("attention_mask")
        _check_mask(cache, mask, tokens.shape[1])
        _check_positions(arguments.get("position_ids"), mask)
    cache.checked = True


def check_tokens(name: str, tokens: Tensor) -> None:
    """Refuse what are no rows of tokens, or of their vectors."""
    axes = ("batch", "time") if name == "input_ids" else ("batch", "time", "features")
    if tokens.ndim != len(axes) or not tokens.shape[1]:
        raise ValueError(f"{name}: expected ({', '.join(axes)}) of at least one token, got {tuple(tokens.shape)}")


def _checkpointed(base: PreTrainedModel) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in base.modules())


def has_cache(arguments: Mapping[str, Any]) -> bool:
    """Whether a cache of any kind is among the arguments of a call."""
    return any(arguments.get(name) is not None for name in _CACHES)


def cache_of(arguments: Mapping[str, Any]) -> InitialCache | None:
    return next((arguments[name] for name in _CACHES if isinstance(arguments.get(name), InitialCache)), None)


def _check_mask(cache: InitialCache, mask: Any, length: int) -> None:
    """Refuse masks with padding before a token, in which the state would decay, and a sequel of padded tokens."""
    if length == 1 and not cache.padded:  # a generated token; the mask is that of the tokens before
        return
    if cache.padded:
        raise ValueError("cache: expected rows without padding at the end to go on from, got some with padding")
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise ValueError("attention_mask: expected None or (batch, time) beside an initial state, got another form")
    if not readable(mask):
        raise ValueError(
            "attention_mask: expected None where it cannot be read, as under torch.compile, got one; padding after the "
            "last token needs no mask"
        )
    mask = mask[:, -length:].bool()
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()) or not bool(mask[:, 0].all()):
        raise ValueError(
            "attention_mask: expected padding after the tokens only (padding_side='right'), as the state decays in "
            "padding, got some before a token"
        )
    cache.padded = not bool(mask.all())


def _check_positions(positions: Any, mask: Any) -> None:
    """Refuse packed rows, in which positions begin anew."""
    if not isinstance(positions, Tensor) or positions.shape[-1] < 2 or not readable(positions):
        return
    positions = positions[0] if positions.ndim > 2 else positions  # of images and text: those of the text
    back = positions[..., 1:] < positions[..., :-1]
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[-1] >= positions.shape[-1]:
        back = back & mask[:, -back.shape[-1] :].bool()
    if bool(back.any()):
        raise ValueError(
            "position_ids: expected one sequence a row, which begins from the state, got packed sequences; give each a "
            "row of its own"
        )

"""Which tensors does a language model of transformers carry from token to token? Read off a run of two tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from transformers.cache_utils import LinearAttentionCacheLayerMixin
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn.language.own_caches import EmptyCache
from contextual_rnn.spec.steps import evaluation

# Families of which every claim of this package is tested; others that keep their state in the same class are probed.
TESTED = (
    "BailingHybrid, Bamba, FalconH1, FalconMamba, GraniteMoeHybrid, Jamba, KimiLinear, LaraMini, Mamba, Mamba2, "
    "MiniMax, NemotronH, OlmoHybrid, Qwen3.5, Qwen3.5Moe, Qwen3-Next, Qwen4Exp, RWKV-7, xLSTM, Zamba, Zamba2, Zaya"
)
# Of families that have a recurrent state and cannot be served, by `model_type`.
_REASONS = {
    "recurrent_gemma": "keeps its state in its modules and drops it at position 0",
    "rwkv": "is RWKV-4 and writes into its state while gradients need it",
}


@dataclass(frozen=True)
class StateTensor:
    """One tensor that a layer's cache holds: `shape` is that of one sequence, `index` counts tensors of a layer."""

    name: str
    layer: int
    index: int
    convolution: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def base_of(model: object) -> PreTrainedModel:
    """The decoder without its head, which every call of `model` goes through; TypeError for another kind of model."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: expected a PreTrainedModel of transformers, got {type(model).__name__}")
    return cast(PreTrainedModel, model.base_model)


@torch.no_grad()
def read_state_tensors(model: PreTrainedModel) -> tuple[StateTensor, ...]:
    """What the layers of `model` keep after two tokens, convolutions too; ValueError where no layer is recurrent."""
    kind = type(model).__name__
    if model.device.type == "meta":
        raise ValueError(f"model: expected {kind} with weights, as it is run to read its state, got one on meta")
    if model.config.is_encoder_decoder:
        raise ValueError(f"model: expected a decoder alone, got {kind}, which has an encoder too")
    try:
        cache = EmptyCache(model.config)
    except Exception as error:
        raise ValueError(f"{_unknown(model)}: {type(error).__name__}: {error}") from error
    if not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers):
        raise ValueError(_unknown(model))
    try:
        with evaluation(model):
            model(torch.zeros(1, 2, dtype=torch.long, device=model.device), cache=cache, use_cache=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(f"model: expected {kind} to run on two tokens, got {type(error).__name__}: {error}") from error
    tensors = []
    for number, layer in enumerate(cache.layers):
        if not isinstance(layer, LinearAttentionCacheLayerMixin):
            continue
        for convolution, states in ((False, layer.recurrent_states), (True, layer.conv_states)):
            for index, state in states.items():
                if state is None or not state.is_floating_point():  # Qwen4's last tokens are integers
                    continue
                if index in getattr(layer, "not_in_a_state", ()):
                    continue
                name = f"layer{number}{'_convolution' if convolution else ''}{f'_{index}' if index else ''}"
                shape = tuple(state.shape[1:])
                tensors.append(StateTensor(name, number, index, convolution, shape, state.dtype, state.device))
    if all(tensor.convolution for tensor in tensors):
        raise ValueError(_unknown(model))
    return tuple(tensors)


def _unknown(model: PreTrainedModel) -> str:
    kind, reason = type(model).__name__, _REASONS.get(model.config.model_type)
    received = kind if reason is None else f"{kind}, which {reason}"
    return (
        "model: expected one whose layers keep a recurrent state in a LinearAttentionLayer of transformers, such as "
        f"{TESTED}, got {received}"
    )

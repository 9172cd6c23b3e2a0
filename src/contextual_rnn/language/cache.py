"""A cache of transformers whose recurrent layers begin from a state."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn.language.layout import StateTensor
from contextual_rnn.language.own_caches import EmptyCache

ANOTHER_MODEL = "cache: expected the model for which initial_cache made it, got another"


class InitialCache(EmptyCache):
    """What `initial_cache` returns: a DynamicCache of which the recurrent layers hold a state before the first token.

    Unlike its base class it replaces its tensors with each call and never writes into them: gradients reach the state,
    and the tensors of the caller stay as they are. `reset` begins from the state anew.
    """

    def __init__(self, base: PreTrainedModel, entries: Sequence[StateTensor], tensors: Mapping[str, Tensor]):
        super().__init__(base.config)
        self._base, self._config = weakref.ref(base), base.config
        self._start = [(entry, tensors[entry.name]) for entry in entries]
        self.checked = False  # whether a call of the model was
        self.padded = False  # whether the tokens so far end in padding
        self.updated = True  # whether the last call of the model has put its states here
        self._fill()

    def _fill(self) -> None:
        for entry, tensor in self._start:
            layer: Any = self.layers[entry.layer]
            if entry.convolution:
                layer.conv_states[entry.index] = tensor
                layer.conv_kernel_size[entry.index] = tensor.shape[-1]
                layer.is_conv_states_initialized[entry.index] = True
                layer.has_previous_state[entry.index] = True
            else:
                layer.recurrent_states[entry.index] = tensor
                layer.is_recurrent_states_initialized[entry.index] = True
            layer.dtype, layer.device = tensor.dtype, tensor.device

    @property
    def rows(self) -> int:
        """Of how many sequences the states are."""
        entry, _ = self._start[0]
        layer: Any = self.layers[entry.layer]
        states = layer.conv_states if entry.convolution else layer.recurrent_states
        return states[entry.index].shape[0]

    @property
    def is_compileable(self) -> bool:
        return False  # for `generate`: its tensors have no fixed address

    def is_of(self, base: PreTrainedModel) -> bool:
        return self._base() is base

    def reset(self) -> None:
        super().__init__(self._config)
        self.padded, self.updated = False, True
        self._fill()

    def reorder_cache(self, beam_idx: Any) -> Any:
        super().reorder_cache(beam_idx)
        return self  # RWKV-7 goes on with what it gets here

    def _layer(self, number: int) -> Any:
        if not self.checked:
            raise ValueError(ANOTHER_MODEL)
        return self.layers[number]

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        layer = self._layer(layer_idx)
        if not layer.has_previous_state[state_idx]:
            return None
        # A step writes into the tensor that it receives.
        layer.conv_states[state_idx] = layer.conv_states[state_idx].clone()
        return layer.conv_states[state_idx]

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None, **_: object
    ) -> Tensor:
        layer = self._layer(layer_idx)
        size = layer.conv_kernel_size[state_idx] or conv_kernel_size or conv_states.shape[-1]
        if layer.has_previous_state[state_idx]:
            conv_states = torch.cat([layer.conv_states[state_idx], conv_states], dim=-1)
        elif conv_states.shape[-1] < size:
            conv_states = torch.nn.functional.pad(conv_states, (size - conv_states.shape[-1], 0))
        layer.conv_states[state_idx] = conv_states[..., -size:].clone()
        layer.conv_kernel_size[state_idx] = size
        layer.is_conv_states_initialized[state_idx] = layer.has_previous_state[state_idx] = True
        layer.dtype, layer.device = conv_states.dtype, conv_states.device
        return conv_states

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        layer = self._layer(layer_idx)
        if not layer.is_recurrent_states_initialized[state_idx]:
            return None
        layer.recurrent_states[state_idx] = layer.recurrent_states[state_idx].clone()  # as for a convolution
        return layer.recurrent_states[state_idx]

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_: object
    ) -> Tensor:
        layer = self._layer(layer_idx)
        layer.recurrent_states[state_idx] = recurrent_states
        layer.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states

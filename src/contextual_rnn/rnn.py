"""A network and its initial state as one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from contextual_rnn._lengths import check_lengths
from contextual_rnn._tree import State, fits
from contextual_rnn.initial_state import InitialState
from contextual_rnn.state_spec import StateSpec, state_spec


class ContextualRNN(nn.Module):
    """A recurrent network that starts from `initial_state` instead of zeros.

    Returns exactly what the network returns. Raises TypeError for a network without a registered spec or an initial
    state that is none, ValueError for an initial state made for another network.
    """

    def __init__(self, network: nn.Module, initial_state: InitialState):
        super().__init__()
        spec = state_spec(network)
        if not isinstance(initial_state, InitialState):
            raise TypeError(f"initial_state: expected an InitialState, got {type(initial_state).__name__}")
        if not fits(spec.tree, initial_state.spec.tree):
            raise ValueError(
                f"initial_state: expected one for {spec.describe()}, got one for {initial_state.spec.describe()}"
            )
        self._spec = spec
        self.network = network
        self.initial_state = initial_state

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        context: Any = None,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Run the network from `hx` where given, else from the initial state for `context`.

        `input` is what the network takes, a PackedSequence included; contexts stand in the order of the sequences as
        they were before packing. `lengths`, (B,) integers on any device and in any order, says how long each sequence
        of a padded batch is: outputs beyond are zero and the final state is that of the last real step. `generator`
        makes a random initial state repeatable.

        Raises ValueError or TypeError for a context or state that does not fit the input, and for bad lengths.
        """
        packed = isinstance(input, PackedSequence)
        batch_size = int(input.batch_sizes[0]) if packed else self._spec.input_batch_size(input)
        if hx is None:
            hx = self.initial_state(context, batch_size, batched=batch_size is not None, generator=generator)
        else:
            self._check_state(hx, batch_size)
        if lengths is None:
            return self.network(input, hx)
        if packed or batch_size is None:
            raise ValueError("lengths: expected only with a padded batch, got a packed or unbatched input")
        return self._run_padded(input, hx, lengths)

    def _run_padded(self, input: Tensor, hx: State, lengths: Tensor) -> Any:
        if not isinstance(self.network, nn.RNNBase):
            return self.network(input, hx, lengths=lengths)
        batch_first = self.network.batch_first
        time = 1 if batch_first else 0
        check_lengths(lengths, input.shape[1 - time], input.shape[time])
        packed = pack_padded_sequence(input, lengths.cpu(), batch_first=batch_first, enforce_sorted=False)
        output, state = self.network(packed, hx)
        return pad_packed_sequence(output, batch_first=batch_first, total_length=input.shape[time])[0], state

    def _check_state(self, state: State, batch_size: int | None) -> None:
        like = next(self.network.parameters(), None)
        leaves = self._spec.unpack(state)
        for leaf in self._spec:
            tensor = leaves[leaf.name]
            size = tensor.shape[0] if tensor.ndim > len(leaf.shape) else None
            if size != batch_size:
                raise ValueError(f"hx: expected {leaf.name!r} of batch size {batch_size}, as the input, got {size}")
            if like is None or (tensor.device == like.device and tensor.dtype == like.dtype):
                continue
            if tensor.device != like.device or not torch.is_autocast_enabled(like.device.type):
                came = f"{tensor.dtype} on {tensor.device}"
                raise ValueError(f"hx: expected {leaf.name!r} of {like.dtype} on {like.device}, got {came}")


@state_spec.register
def _(network: ContextualRNN) -> StateSpec:
    return state_spec(network.network)

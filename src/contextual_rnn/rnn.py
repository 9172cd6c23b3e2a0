"""A network and its initial state as one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from contextual_rnn._autocast import in_autocast
from contextual_rnn._lengths import check_lengths
from contextual_rnn._tree import State, fits, matches, zip_leaves
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

        Raises ValueError or TypeError for an input of other axes, a context or state that does not fit it, bad lengths,
        and an initial state whose dtype or device is not the network's: with every call, as modules may be moved.
        """
        packed = isinstance(input, PackedSequence)
        if packed and self._spec.input_ndim == 2:
            raise TypeError("input: expected a tensor of one step, as the network is a cell, got PackedSequence")
        batch_size = int(input.batch_sizes[0]) if packed else self._spec.input_batch_size(input)
        if hx is None:
            hx = self.initial_state(context, batch_size, batched=batch_size is not None, generator=generator)
            check_made(self.network, self.initial_state, hx)
        else:
            self._check_state(hx, batch_size)
        if lengths is None:
            return self.network(input, hx)
        if packed or batch_size is None or self._spec.input_ndim == 2:
            raise ValueError("lengths: expected only with a padded batch of sequences, got a packed or unbatched input")
        return self._run_padded(input, hx, lengths)

    def _run_padded(self, input: Tensor, hx: State, lengths: Tensor) -> Any:
        if not isinstance(self.network, nn.RNNBase):
            return self.network(input, hx, lengths=lengths)
        batch_first = self.network.batch_first
        time = 1 if batch_first else 0
        check_lengths(lengths, input.shape[1 - time], input.shape[time])
        if not lengths.numel():  # torch packs no empty batch
            return self.network(input, hx)
        packed = pack_padded_sequence(input, lengths.cpu(), batch_first=batch_first, enforce_sorted=False)
        output, state = self.network(packed, hx)
        return pad_packed_sequence(output, batch_first=batch_first, total_length=input.shape[time])[0], state

    def _check_state(self, state: State, batch_size: int | None) -> None:
        if matches(self._spec.tree, state, batch_size, _first_parameter(self.network)):
            return
        leaves = self._spec.unpack(state, "hx")
        for leaf in self._spec:
            tensor = leaves[leaf.name]
            size = tensor.shape[0] if tensor.ndim > len(leaf.shape) else None
            if size != batch_size:
                raise ValueError(f"hx: expected {leaf.name!r} of batch size {batch_size}, as the input, got {size}")
        _check_like("hx", self.network, self._spec.tree, state)


def check_made(network: nn.Module, initial_state: InitialState, state: State) -> None:
    """Refuse what an initial state made if its dtype or device is not the network's."""
    _check_like("initial_state", network, initial_state.spec.tree, state)


def _first_parameter(network: nn.Module) -> Tensor | None:
    """next(network.parameters(), None) at a tenth of its time, which every step of a loop would pay."""
    for parameter in network._parameters.values():
        if parameter is not None:
            return parameter
    return next(network.parameters(), None)


def _check_like(name: str, network: nn.Module, tree: State, state: State) -> None:
    like = _first_parameter(network)
    if like is None:
        return
    for leaf, tensor in zip_leaves(tree, state, name):
        if _is_like(tensor, like.dtype, like.device):
            continue
        spec = state_spec(network)  # a network's own spec may ask for something else than its first parameter
        dtype, device = spec.dtype or like.dtype, spec.device or like.device
        if not _is_like(tensor, dtype, device):
            came = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name}: expected {leaf.name!r} of {dtype} on {device}, as the network, got {came}")


def _is_like(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> bool:
    return tensor.device == device and (tensor.dtype == dtype or in_autocast(device))


@state_spec.register
def _(network: ContextualRNN) -> StateSpec:
    return state_spec(network.network)

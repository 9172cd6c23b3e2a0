"""Rows of different lengths, run by torch as if they were whole."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from contextual_rnn._lengths import without_padding
from contextual_rnn._torch_internals import is_plain_call
from contextual_rnn.sequences.backend import KINDS
from contextual_rnn.spec.tree import State


def needs_no_packing(network: nn.Module, final_state: bool = True) -> TypeGuard[nn.RNNBase]:
    """Whether rows of different lengths can be run as if they were whole, in a plain call of torch's.

    Steps of zeros after a row stay finite, and the final state is the last output or not wanted. Torch's backward pass
    through packed rows takes several times as long.
    """
    if type(network) not in KINDS or not is_plain_call(network):
        return False
    assert isinstance(network, nn.RNNBase)
    if network.bidirectional or network.mode == "RNN_RELU":
        return False
    return not final_state or (network.num_layers == 1 and network.mode != "LSTM")


def run_padded(network: nn.RNNBase, input: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
    """Rows of `lengths` (B,) steps from the first on, in one dense call; the rest of the output is zero.

    The state is the last output of the row: the final state of one layer of GRU or tanh units.
    """

    def turned(tensor: Tensor) -> Tensor:
        return tensor if network.batch_first else tensor.transpose(0, 1)

    output = network(turned(without_padding(turned(input), lengths)), state)[0]
    rows = without_padding(turned(output), lengths)
    if not isinstance(state, Tensor):  # of an LSTM, whose c is in no output
        return turned(rows), state
    lengths = lengths.to(output.device).long()
    last = rows[torch.arange(len(rows), device=output.device), (lengths - 1).clamp(min=0)]
    return turned(rows), torch.where(lengths[:, None] > 0, last, state[-1])[None]

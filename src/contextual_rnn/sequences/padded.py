"""Rows of different lengths, run by torch as if they were whole, and in programs in which values cannot be read."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from contextual_rnn._lengths import without_padding
from contextual_rnn._torch_internals import assert_later, is_plain_call, is_program, is_tracing
from contextual_rnn.sequences.backend import KINDS
from contextual_rnn.spec.arguments import Inputs
from contextual_rnn.spec.tree import State


def refuse_tracing(name: str) -> None:
    if is_tracing():
        raise ValueError(f"{name}: expected none under torch.jit.trace here, where its values would become constants")


def real_steps_first(inputs: Inputs, mask: Tensor) -> tuple[Inputs, Tensor, Tensor]:
    """Each row turned around until the real steps of `mask` (B, T) come first; their first, and how many there are."""
    first, lengths = mask.to(torch.uint8).argmax(1), mask.sum(1)
    step = torch.arange(mask.shape[1], device=mask.device)
    place = (step + first[:, None]) % mask.shape[1]
    whole = (mask.gather(1, place) == (step < lengths[:, None])).all()
    assert_later(whole, "mask: expected the real steps of each row in one block, got padding between")
    [turned] = inputs.blocks([(torch.arange(mask.shape[0], device=mask.device), place)])
    return turned, first, lengths


def turned_back(inputs: Inputs, first: Tensor) -> Tensor:
    """What `real_steps_first` turned, as it was."""
    steps = inputs.tensor.shape[inputs.time_dim]
    place = (torch.arange(steps, device=first.device) - first[:, None]) % steps
    return inputs.blocks([(torch.arange(first.shape[0], device=first.device), place)])[0].tensor


def run_packed(
    network: nn.Module, input: Tensor, state: State, lengths: Tensor, batch_first: bool
) -> tuple[Tensor, State]:
    """Rows of `lengths` (B,) steps from the first on, as torch packs them; in a program rows of no step too."""
    lengths, time = lengths.cpu(), int(batch_first)
    given = lengths.clamp(min=1) if is_program() else lengths
    packed = pack_padded_sequence(input, given, batch_first=batch_first, enforce_sorted=False)
    output, final = network(packed, state)
    output = pad_packed_sequence(output, batch_first=batch_first, total_length=input.shape[time])[0]
    if given is lengths:
        return output, final
    output = without_padding(output.transpose(0, 1 - time), lengths).transpose(0, 1 - time)
    some = (lengths > 0)[:, None].to(output.device)
    if isinstance(state, Tensor):
        return output, torch.where(some, final, state)
    return output, tuple(torch.where(some, new, old) for new, old in zip(final, state, strict=True))


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
    last = rows[torch.arange(rows.shape[0], device=output.device), (lengths - 1).clamp(min=0)]
    return turned(rows), torch.where(lengths[:, None] > 0, last, state[-1])[None]

"""Lengths of the sequences of a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence


def check_lengths(lengths: Tensor, batch_size: int, steps: int) -> None:
    """Refuse anything but (B,) integers from 1 to T."""
    if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int64, torch.int32):
        came = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths: expected a tensor of int64 or int32, got {came}")
    if lengths.shape != (batch_size,):
        raise ValueError(f"lengths: expected shape ({batch_size},), got {tuple(lengths.shape)}")
    if torch.compiler.is_compiling():
        return  # values cannot be read there
    if lengths.numel() and not (int(lengths.min()) >= 1 and int(lengths.max()) <= steps):
        raise ValueError(f"lengths: expected 1 to {steps}, got {int(lengths.min())} to {int(lengths.max())}")


def check_flags(name: str, flags: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse anything but a tensor of bool of this shape."""
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        came = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
        raise TypeError(f"{name}: expected a tensor of bool, got {came}")
    if tuple(flags.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(flags.shape)}")


def lengths_of(mask: Tensor, batch_size: int, steps: int) -> Tensor:
    """The lengths (B,) that a mask (B, T) of the real steps says, which must come first in every row."""
    check_flags("mask", mask, (batch_size, steps))
    if not torch.compiler.is_compiling():  # values cannot be read there
        if not bool(mask[:, 0].all()):
            row = int((~mask[:, 0]).nonzero()[0])
            raise ValueError(f"mask: expected padding after at least one real step, got none first in row {row}")
        if bool((holes := mask[:, 1:] & ~mask[:, :-1]).any()):
            row, step = holes.nonzero()[0].tolist()
            raise ValueError(f"mask: expected no real step after padding, got one at step {step + 1} of row {row}")
    return mask.sum(1)


def without_padding(inputs: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, ...) with zeros beyond each sequence's end: padding may be anything, and 0 times NaN is NaN."""
    beyond = torch.arange(inputs.shape[1], device=inputs.device) >= lengths.to(inputs.device)[:, None]
    return inputs.masked_fill(beyond.view(*beyond.shape, *(1,) * (inputs.ndim - 2)), 0)


def packed_like(packed: PackedSequence, padded: Tensor, time: int) -> PackedSequence:
    """A padded batch, of time axis `time`, in the order of the steps of `packed`."""
    lengths = (packed.batch_sizes > torch.arange(int(packed.batch_sizes[0]))[:, None]).sum(1)
    if packed.sorted_indices is not None:
        padded = padded.index_select(1 - time, packed.sorted_indices)
    return packed._replace(data=pack_padded_sequence(padded, lengths, batch_first=time == 1).data)

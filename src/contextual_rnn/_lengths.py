"""Lengths of the sequences of a padded batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from contextual_rnn._tensors import check_readable, is_lazy
from contextual_rnn._torch_internals import assert_later, is_batched, is_tracing


def check_lengths(lengths: Tensor, batch_size: int, steps: int, least: int = 0) -> int | None:
    """Refuse anything but (B,) integers from `least` to T; returns the smallest, None where no value can be read."""
    _check_readable("lengths", lengths, "a tensor of int64 or int32")
    if lengths.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"lengths: expected a tensor of int64 or int32, got {lengths.dtype}")
    if lengths.shape != (batch_size,):
        raise ValueError(f"lengths: expected shape ({batch_size},), got {tuple(lengths.shape)}")
    if torch.compiler.is_compiling():  # values cannot be read there, and the number of steps is not known either
        fit = ((lengths >= least) & (lengths <= steps)).all()
        assert_later(fit, f"lengths: expected {least} to the number of steps, got others")
        return None
    if not lengths.numel():
        return None
    shortest, longest = map(int, lengths.aminmax())
    if shortest < least or longest > steps:
        raise ValueError(f"lengths: expected {least} to {steps}, got {shortest} to {longest}")
    return shortest


def check_flags(name: str, flags: Tensor, sizes: dict[str, int]) -> None:
    """Refuse anything but a tensor of bool of these sizes, which have the names of their axes."""
    _check_readable(name, flags, "a tensor of bool")
    if flags.dtype != torch.bool:
        raise TypeError(f"{name}: expected a tensor of bool, got {flags.dtype}")
    if tuple(flags.shape) != (shape := tuple(sizes.values())):
        axes = f", ({', '.join(sizes)}) as the input" if len(sizes) > 1 else ""
        raise ValueError(f"{name}: expected shape {shape}{axes}, got {tuple(flags.shape)}")


def snapshot(argument: Any) -> Any:
    """A copy of a tensor that says where to read: another thread may write to it after it was checked."""
    return argument.clone() if isinstance(argument, Tensor) and not is_lazy(argument) else argument


def _check_readable(name: str, value: Tensor, expected: str) -> None:
    check_readable(name, value, expected)
    if is_batched(value):
        raise ValueError(f"{name}: expected a tensor whose values can be read, got one over which torch.func.vmap maps")


def packed_batch_size(packed: PackedSequence) -> int:
    """How many sequences there are."""
    size = packed.batch_sizes[0]
    return size if is_tracing() else int(size)  # pyright: ignore[reportReturnType]


def blocks_of(mask: Tensor) -> tuple[Tensor | None, Tensor]:
    """First step and length (B,) of the real steps that a mask (B, T) says, one block a row; first is None for zeros.

    Raises ValueError for a mask with a hole.
    """
    lengths = mask.sum(1)
    if not mask.shape[1]:
        return None, lengths
    first = mask.to(torch.uint8).argmax(1)
    step = torch.arange(mask.shape[1], device=mask.device)
    after = mask & (step >= (first + lengths)[:, None])
    if bool(after.any()):
        row = int(after.nonzero()[0, 0])
        real = mask[row].nonzero()[:, 0]
        gap = int((real.diff() > 1).nonzero()[0])
        raise ValueError(
            f"mask: expected the real steps of each row in one block, got padding at step {int(real[gap]) + 1} and a "
            f"real step after it at step {int(real[gap + 1])} of row {row}"
        )
    return (first if bool(first.any()) else None), lengths


def without_padding(inputs: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, ...) with zeros beyond each sequence's end: padding may be anything, and 0 times NaN is NaN."""
    beyond = torch.arange(inputs.shape[1], device=inputs.device) >= lengths.to(inputs.device)[:, None]
    return inputs.masked_fill(beyond.view(*beyond.shape, *(1,) * (inputs.ndim - 2)), 0)


def packed_like(packed: PackedSequence, padded: Tensor, time: int) -> PackedSequence:
    """A padded batch, of time axis `time`, in the order of the steps of `packed`."""
    lengths = (packed.batch_sizes > torch.arange(int(packed.batch_sizes[0]), device="cpu")[:, None]).sum(1)
    if packed.sorted_indices is not None:
        padded = padded.index_select(1 - time, packed.sorted_indices)
    return packed._replace(data=pack_padded_sequence(padded, lengths, batch_first=time == 1).data)

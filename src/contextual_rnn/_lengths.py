"""Lengths of the sequences of a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor


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


def without_padding(inputs: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, ...) with zeros beyond each sequence's end: padding may be anything, and 0 times NaN is NaN."""
    beyond = torch.arange(inputs.shape[1], device=inputs.device) >= lengths.to(inputs.device)[:, None]
    return inputs.masked_fill(beyond.view(*beyond.shape, *(1,) * (inputs.ndim - 2)), 0)

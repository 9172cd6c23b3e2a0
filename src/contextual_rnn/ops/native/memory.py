"""Addresses of tensors, for what reads and writes there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from contextual_rnn._tensors import described

# A part of a tensor without memory, fake or freed, has its offset for an address. Most memory lies beyond this.
LOW = 1 << 40


def address(tensor: Tensor | None) -> int:
    """Where the elements of a contiguous tensor lie, 0 for none; ValueError for elements without memory."""
    if tensor is None:
        return 0
    if (place := tensor.data_ptr()) > LOW or has_memory(tensor):
        return place
    if tensor.numel():
        raise ValueError(f"expected a tensor with memory, got {described(tensor)}, freed or never in memory")
    return 0


def has_memory(tensor: Tensor) -> bool:
    """Whether the elements lie somewhere."""
    return tensor.data_ptr() > tensor.storage_offset() * tensor.element_size()


def in_memory(tensor: Tensor | None) -> Tensor | None:
    """The elements as they are, contiguous: not negated, nor zeros without memory."""
    if tensor is None:
        return None
    tensor = tensor.resolve_neg().contiguous()
    return tensor.clone() if tensor._is_zerotensor() else tensor


def addresses_of(tensors: Sequence[Tensor | None], names: Sequence[str]) -> list[int]:
    """The addresses of contiguous tensors; ValueError with the name of one whose elements have no memory."""
    try:
        return [*map(address, tensors)]
    except ValueError as error:
        empty = [tensor is not None and tensor.numel() > 0 and not has_memory(tensor) for tensor in tensors]
        raise ValueError(f"{names[empty.index(True)]}: {error}") from None

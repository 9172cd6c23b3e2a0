"""Addresses of tensors, for what reads and writes there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from contextual_rnn._tensors import described


def address(tensor: Tensor | None) -> int:
    """Where the elements of a contiguous tensor lie, 0 for none; ValueError for elements without memory."""
    return 0 if tensor is None else tensor.data_ptr() or address_of_nothing(tensor)


def address_of_nothing(tensor: Tensor) -> int:
    """0 for a tensor without elements; ValueError for one that has some, which lie nowhere."""
    if tensor.numel():
        raise ValueError(f"expected a tensor with memory, got {described(tensor)}, freed or never in memory")
    return 0


def in_memory(tensor: Tensor | None) -> Tensor | None:
    """The elements as they are, contiguous: not negated, nor zeros without memory."""
    if tensor is None:
        return None
    tensor = tensor.resolve_neg().contiguous()
    return tensor.clone() if tensor._is_zerotensor() else tensor


def addresses_of(tensors: Sequence[Tensor | None], names: Sequence[str]) -> list[int]:
    """The addresses of contiguous tensors; ValueError with the name of one whose elements have no memory."""
    try:
        return [0 if tensor is None else tensor.data_ptr() or address_of_nothing(tensor) for tensor in tensors]
    except ValueError as error:
        empty = [tensor is not None and tensor.numel() > 0 and not tensor.data_ptr() for tensor in tensors]
        raise ValueError(f"{names[empty.index(True)]}: {error}") from None

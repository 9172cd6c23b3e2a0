"""Tensors that are arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Classes of tensors that have their elements in memory of their own.
PLAIN_TENSORS = frozenset((Tensor, torch.nn.Parameter))
NOT_MADE = "of a lazy module, which makes it in its first call"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_dense(name: str, value: object, expected: str = "a tensor") -> None:
    """Refuse anything but a tensor that holds one plain number for each element, at a place its strides give."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    if value.is_nested:  # some have a strided layout and no shape
        raise ValueError(f"{name}: expected a strided tensor, got a nested one")
    if value.layout != torch.strided:
        raise ValueError(f"{name}: expected a strided tensor, got one of layout {value.layout}")
    if value.is_quantized:
        raise ValueError(f"{name}: expected a strided tensor of numbers, got a quantised one of {value.dtype}")


def check_readable(name: str, value: object, expected: str = "a tensor") -> None:
    """Refuse anything but a dense tensor whose values can be read."""
    check_dense(name, value, expected)
    assert isinstance(value, Tensor)
    if value.is_meta:
        raise ValueError(f"{name}: expected a tensor whose values can be read, got one on meta")
    if is_lazy(value):
        raise ValueError(f"{name}: expected a tensor whose values can be read, got one {NOT_MADE}")


def is_lazy(tensor: Tensor) -> bool:
    """Whether a lazy module has yet to make the tensor; torch's own question cannot be traced by torch.compile."""
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


def check_floats(name: str, value: object) -> None:
    """Refuse anything but a dense tensor of a dtype that torch's networks compute in."""
    check_dense(name, value)
    assert isinstance(value, Tensor)
    if value.dtype not in FLOATS:
        raise TypeError(f"{name}: expected a floating-point tensor of at least 16 bits, got {value.dtype}")


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    return bool(comparable(tensor).isfinite().all())


def comparable(tensor: Tensor) -> Tensor:
    """Of floats of eight bits torch has neither isfinite nor comparisons."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def first_parameter(module: nn.Module) -> Tensor | None:
    """As next(module.parameters(), None), in a tenth of the time, which counts in a loop over steps."""
    if not torch.compiler.is_compiling():  # which does not trace a module's own dicts
        for parameter in module._parameters.values():  # pyright: ignore[reportPrivateUsage]
            if parameter is not None:
                return parameter
    return next(module.parameters(), None)


def random(
    draw: Callable[..., Tensor], size: Sequence[int], generator: torch.Generator | None, **options: Any
) -> Tensor:
    """`draw(size)`, as torch.randn, from `generator` if there is one: beside that keyword no size may be symbolic."""
    return draw(size, **options) if generator is None else draw(size, generator=generator, **options)


def described(value: object) -> str:
    """Dtype, shape and device of a tensor, for the message of an error; the type of anything else."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    shape = "nested" if value.is_nested else f"of shape {tuple(value.shape)}"
    return f"{value.dtype} {shape} on {value.device}"

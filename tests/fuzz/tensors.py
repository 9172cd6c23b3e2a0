"""Tensors in the place of a tensor: such as mean the same, and such as should be refused or at least survived."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tests.fuzz.draw import Draw
from tests.fuzz.networks import OddError
from torch import Tensor, nn
from torch.utils._pytree import tree_map

HUGE = 2**40
MAY_BE_REFUSED = "a wrapper"


class Plain(Tensor):
    """A subclass that does nothing."""


class Raising(Tensor):
    """A subclass whose every function fails."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise OddError("a tensor that fails")


class Wrapper(Tensor):
    """A subclass without memory of its own, as DTensor is: every function runs on the tensor inside."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        places = {"dtype": inner.dtype, "device": inner.device, "strides": inner.stride()}
        return Tensor._make_wrapper_subclass(cls, inner.shape, **places)  # pyright: ignore[reportAttributeAccessIssue]

    def __init__(self, inner: Tensor):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            return value.inner if isinstance(value, Wrapper) else value

        return func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))


def _strided(tensor: Tensor) -> Tensor:
    """The same numbers, every other element of memory."""
    wide = tensor.new_empty((*tensor.shape, 2))
    wide[..., 0] = tensor
    return wide[..., 0]


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.ndim > 1 else _strided(tensor)


def _offset(tensor: Tensor) -> Tensor:
    flat = tensor.new_empty(tensor.numel() + 3)
    flat[3:] = tensor.reshape(-1)
    return flat[3:].view(tensor.shape)


def _negative(tensor: Tensor) -> Tensor:
    return torch._neg_view(-tensor) if tensor.is_floating_point() else _offset(tensor)


def _with_gradient(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_() if tensor.is_floating_point() else tensor.clone()


# The same numbers: a call must give the same result.
SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": _strided,
    "transposed": _transposed,
    "offset": _offset,
    "a negative view": _negative,
    "with a gradient": _with_gradient,
    "a parameter": lambda t: nn.Parameter(t.clone(), requires_grad=t.is_floating_point()),
    "a subclass": lambda t: t.as_subclass(Plain),
    MAY_BE_REFUSED: lambda t: Wrapper(t.detach().clone()),
}


def _in_inference(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


def _filled(value: float) -> Callable[[Tensor], Tensor]:
    def fill(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bool:
            return torch.full_like(tensor, value == value and value > 0)
        if not tensor.is_floating_point():
            value_ = {math.inf: 2**62, -math.inf: -(2**62)}.get(value, int(value) if math.isfinite(value) else -1)
            info = torch.iinfo(tensor.dtype)
            return torch.full_like(tensor, max(info.min, min(info.max, value_)))
        return torch.full_like(tensor, value)

    return fill


def _one_spoiled(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(tensor: Tensor) -> Tensor:
        spoiled, filled = tensor.clone(), _filled(value)(tensor)
        if spoiled.numel():
            spoiled.view(-1)[-1] = filled.reshape(-1)[-1]
        return spoiled

    return spoil


def _fake(tensor: Tensor) -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(tensor)


def _cut(dim: int) -> Callable[[Tensor], Tensor]:
    return lambda t: t.narrow(dim, 0, max(0, t.shape[dim] - 1)) if t.ndim else t[None]


def _more(dim: int) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.cat([t, t.narrow(dim, 0, 1)], dim) if t.ndim and t.shape[dim] else t[None]


def _huge(dim: int) -> Callable[[Tensor], Tensor]:
    """Of a size that no memory has, without the memory."""

    def expand(t: Tensor) -> Tensor:
        if not t.ndim or not t.shape[dim]:
            return t.new_zeros(()).expand(HUGE)
        one = t.narrow(dim, 0, 1)
        return one.expand(*(HUGE if axis == dim % t.ndim else size for axis, size in enumerate(t.shape)))

    return expand


DTYPES = [
    torch.int64, torch.int32, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64, torch.float16,
    torch.bfloat16, torch.float64, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip

HOSTILE: dict[str, Callable[[Tensor], Any]] = {
    **{f"of {dtype}": (lambda t, dtype=dtype: t.detach().to(dtype)) for dtype in DTYPES},
    "meta": lambda t: t.detach().to("meta"),
    "sparse": lambda t: t.detach().to_sparse(),
    "sparse rows": lambda t: t.detach().float().reshape(t.shape[0] if t.ndim else 1, -1).to_sparse_csr(),
    "nested": lambda t: torch.nested.nested_tensor([t.detach().float(), t.detach().float()]),
    "jagged": lambda t: torch.nested.nested_tensor([t.detach(), t.detach()], layout=torch.jagged),
    "quantised": lambda t: torch.quantize_per_tensor(t.detach().float(), 0.1, 0, torch.qint8),
    "mkldnn": lambda t: t.detach().float().to_mkldnn(),
    "a conjugate": lambda t: t.detach().to(torch.complex64).conj(),
    "negative": lambda t: torch._neg_view(t.detach().float()),
    "imaginary": lambda t: torch.complex(t.detach().float(), t.detach().float()).conj().imag,
    "of inference": _in_inference,
    "a wrapper": lambda t: Wrapper(t.detach().clone()),
    "failing": lambda t: t.detach().as_subclass(Raising),
    "fake": _fake,
    "not finite": _filled(math.nan),
    "infinite": _filled(math.inf),
    "-inf": _filled(-math.inf),
    "large": _filled(1e38),
    "tiny": _filled(1e-45),
    "zero": _filled(0.0),
    "minus one": _filled(-1.0),
    "one nan": _one_spoiled(math.nan),
    "one inf": _one_spoiled(math.inf),
    "one minus one": _one_spoiled(-1.0),
    "with an axis": lambda t: t[None],
    "with a last axis": lambda t: t[..., None],
    "first row": lambda t: t[0] if t.ndim and len(t) else t[None],
    "no rows": lambda t: t[:0] if t.ndim else t.new_empty(0),
    "no columns": lambda t: t[..., :0] if t.ndim else t.new_empty(0),
    "no axes": lambda t: t.new_zeros(()),
    "flat": lambda t: t.reshape(-1),
    "swapped": lambda t: t.transpose(0, -1) if t.ndim else t[None],
    "cut rows": _cut(0),
    "cut columns": _cut(-1),
    "more rows": _more(0),
    "more columns": _more(-1),
    "shared rows": lambda t: t[:1].expand(t.shape) if t.ndim and len(t) else t,
    "huge rows": _huge(0),
    "huge columns": _huge(-1),
    "a list": lambda t: t.detach().tolist(),
    "an array": lambda t: t.detach().numpy(),
    "a number of numpy": lambda t: np.float32(t.detach().reshape(-1)[0].item()) if t.numel() else np.float32(0),
    "a packed sequence": lambda t: nn.utils.rnn.pack_sequence([t.detach().reshape(-1, 1)]),
    "of 20 axes": lambda t: t[(None,) * 20],
}


def hostile_tensor(d: Draw, tensor: Tensor) -> tuple[str, Any]:
    """A name and what stands for the tensor; one that cannot be made of this tensor is the tensor itself."""
    name = d.choose(list(HOSTILE))
    try:
        return name, HOSTILE[name](tensor)
    except (RuntimeError, TypeError, IndexError, ValueError, AttributeError, MemoryError, AssertionError, OddError):
        return "the same", tensor

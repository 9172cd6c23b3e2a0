"""What `moments` of a state of the user's own returned: refused, or made whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._autocast import autocast_joins
from contextual_rnn._numbers import NOT_NEGATIVE, check_number, listed, shortened
from contextual_rnn._sharded import is_sharded
from contextual_rnn._tensors import check_dense, described
from contextual_rnn.spec.leaf import Leaf, rows_of
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.states._heads import rows_beside_one_example, tile
from contextual_rnn.states.moments import Moments


def checked_moments(
    state: nn.Module, spec: StateSpec, moments: Any, context: Any, batch_size: int | None, batched: bool | None
) -> tuple[dict[str, Moments], int | None]:
    """The moments, each mean (B, *shape), and B; of one example `shape` and None.

    B is `batch_size` where that is given, else that of the first part that has one, else the context's.
    """
    name = f"{type(state).__name__}.moments"
    if not isinstance(moments, Mapping):
        raise TypeError(f"{name}: expected a dict from names of leaves to Moments, got {type(moments).__name__}")
    floats, every = [leaf.name for leaf in spec.floats], [leaf.name for leaf in spec]
    if not set(floats) <= set(moments) <= set(every):
        received = shortened(list(moments))
        raise ValueError(f"{name}: expected Moments of the leaves {listed(floats)}, got {received}")
    size, device, is_one_row = batch_size, None, False
    leaves = [leaf for leaf in spec if leaf.name in moments]
    for leaf in leaves:
        for part, tensor in _parts(f"{name}[{leaf.name!r}]", spec, leaf, moments[leaf.name]):
            if part.endswith(".mean"):
                _check_dtype(part, state, spec, leaf, tensor)
            device = device or tensor.device
            if tensor.device != device:
                raise ValueError(f"{part}: expected a tensor on {device}, as the parts before, got {tensor.device}")
            if (rows := rows_of(leaf, tensor)) is None:
                continue
            if batched is False:
                raise ValueError(f"{part}: expected one example, {leaf.shape}, got shape {tuple(tensor.shape)}")
            if rows == 1 and part.endswith(".scale"):  # which broadcasts
                is_one_row = True
                continue
            size = rows if size is None else size
            if rows != size:
                raise ValueError(f"{part}: expected a batch of {size}, got shape {tuple(tensor.shape)}")
    if size is None and batched is not False:
        size = rows_beside_one_example(context)
        size = 1 if size is None and is_one_row else size
    checked: dict[str, Moments] = {}
    for leaf in leaves:
        mean, scale = moments[leaf.name]
        if size is not None and isinstance(scale, Tensor) and rows_of(leaf, scale) == 1:
            scale = scale.expand(size, *scale.shape[1:])
        checked[leaf.name] = Moments(tile(mean, size) if rows_of(leaf, mean) is None else mean, scale)
    return checked, size


def _check_dtype(name: str, state: nn.Module, spec: StateSpec, leaf: Leaf, mean: Tensor) -> None:
    """Refuse a dtype of neither the network nor the parameters; a leaf's own is converted to, as is all in autocast."""
    if leaf.dtype is not None or mean.dtype == spec.dtype_of(leaf):
        return
    like = [p for p in state.parameters() if p.is_floating_point() or p.is_complex()]
    dtypes = [_real(parameter.dtype) for parameter in like]
    received = _real(mean.dtype)
    if not like or received in dtypes or any(map(is_sharded, like)):
        return
    if not autocast_joins(received, dtypes[0], mean.device):
        raise TypeError(f"{name}: expected {like[0].dtype}, as the parameters of the state, got {described(mean)}")


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _parts(name: str, spec: StateSpec, leaf: Leaf, moments: Any) -> list[tuple[str, Tensor]]:
    """The tensors among the moments of one leaf by name, of any batch."""
    if not isinstance(moments, tuple) or len(moments) != 2:
        raise TypeError(f"{name}: expected Moments(mean, scale), got {type(moments).__name__}")
    (mean, scale), dtype = moments, spec.dtype_of(leaf)
    check_dense(f"{name}.mean", mean)
    if leaf not in spec.floats:
        fits, kind = mean.dtype == dtype, f"{dtype} and no scale"
    elif dtype is not None and dtype.is_complex:
        fits, kind = mean.is_complex(), "complex numbers"
    else:
        fits, kind = mean.is_floating_point(), "real floats"
    if not fits:
        raise TypeError(f"{name}.mean: expected {kind}, got {described(mean)}")
    if leaf not in spec.floats and scale is not None:
        raise TypeError(f"{name}.scale: expected None for a leaf of {dtype}, got {shortened(scale)}")
    if mean.shape[-len(leaf.shape) :] != leaf.shape or mean.ndim > len(leaf.shape) + 1:
        received = tuple(mean.shape)
        raise ValueError(f"{name}.mean: expected shape {leaf.shape}, with a batch before or not, got {received}")
    if not isinstance(scale, Tensor):
        if scale is not None:
            check_number(f"{name}.scale", scale, f"None, a tensor or {NOT_NEGATIVE.expected}", NOT_NEGATIVE.fits)
        return [(f"{name}.mean", mean)]
    check_dense(f"{name}.scale", scale)
    if not scale.is_floating_point():
        raise TypeError(f"{name}.scale: expected real floats, got {described(scale)}")
    axes = min(scale.ndim, len(leaf.shape))
    pairs = zip(scale.shape[scale.ndim - axes :], leaf.shape[len(leaf.shape) - axes :], strict=True)
    if scale.ndim > len(leaf.shape) + 1 or any(size not in (1, of_leaf) for size, of_leaf in pairs):
        raise ValueError(f"{name}.scale: expected a shape that broadcasts to the mean's, got {tuple(scale.shape)}")
    return [(f"{name}.mean", mean), (f"{name}.scale", scale)]

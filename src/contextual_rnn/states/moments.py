"""Mean and scale of a leaf, and a draw from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from contextual_rnn._precision import wide
from contextual_rnn._tensors import check_readable, described, random
from contextual_rnn.spec.leaf import Leaf, rows_of
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.states._recomputed import draw_again


class Moments(NamedTuple):
    """Of one leaf: the mean, (B, *shape) or `shape`, and the scale, which broadcasts against it; None: no noise.

    The mean has the dtype of the state, a scale that is a tensor float32 at least.
    """

    mean: Tensor
    scale: Tensor | float | None


def of_rows(moments: dict[str, Moments], spec: StateSpec, rows: Tensor | None) -> dict[str, Moments]:
    """The moments of some rows of a batch, any number of times; None: as they are."""
    if rows is None:
        return moments
    if isinstance(rows, Tensor):
        check_readable("rows", rows)
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.ndim != 1:
        raise TypeError(f"rows: expected a tensor of int64 with one axis, got {described(rows)}")
    least, most = map(int, rows.aminmax()) if rows.numel() else (0, -1)
    chosen = {}
    for leaf in spec:
        mean, scale = moments[leaf.name]
        if mean.ndim == len(leaf.shape):
            raise ValueError("rows: expected only with a batch, got one example")
        if least < 0 or most >= len(mean):
            raise ValueError(f"rows: expected 0 to {len(mean) - 1}, got {least} to {most}")
        index = rows.to(mean.device)
        if isinstance(scale, Tensor) and scale.ndim == mean.ndim:
            scale = scale.index_select(0, index)
        chosen[leaf.name] = Moments(mean.index_select(0, index), scale)
    return chosen


def repeated(leaf: Leaf, moments: Moments, copies: int) -> Moments:
    """The moments of a leaf with each row `copies` times; one example becomes a batch of that many."""
    mean, scale = moments
    if isinstance(scale, Tensor) and rows_of(leaf, scale) is not None:
        scale = scale.repeat_interleave(copies, 0)
    single = rows_of(leaf, mean) is None
    return Moments(mean.expand(copies, *mean.shape) if single else mean.repeat_interleave(copies, 0), scale)


def normal(moments: Moments, validate_args: bool | None = None) -> Normal:
    """N(mean, scale^2) of every unit, in float32 at least."""
    assert moments.scale is not None
    mean = wide(moments.mean)
    return Normal(mean, as_tensor(moments.scale, mean), validate_args=validate_args)


def as_tensor(scale: Tensor | float, mean: Tensor) -> Tensor:
    """A scale in float32 at least, for a mean in float32 at least."""
    if isinstance(scale, Tensor):
        return wide(scale)
    return torch.as_tensor(scale, dtype=mean.real.dtype, device=mean.device)


def draw(moments: Moments, generator: torch.Generator | None) -> Tensor:
    mean, scale = moments
    if scale is None:
        return mean
    if generator is not None and generator.device.type != mean.device.type and not mean.is_meta:
        raise ValueError(f"generator: expected one on {mean.device}, as the state, got one on {generator.device}")
    options: Any = {"dtype": mean.dtype, "device": mean.device}
    noise = draw_again(lambda: random(torch.randn, mean.shape, generator, **options), generator)
    drawn = mean + scale * noise
    return drawn if drawn.dtype == mean.dtype else drawn.to(mean.dtype)

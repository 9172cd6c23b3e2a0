"""Mean and scale of a leaf, and a draw from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from contextual_rnn._precision import wide
from contextual_rnn._tensors import check_readable, described, random
from contextual_rnn.spec.leaf import Leaf, rows_of
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.states._heads import batch_of
from contextual_rnn.states._recomputed import draw_again


class Moments(NamedTuple):
    """Of one leaf: the mean, (B, *shape) or `shape`, and the scale, which broadcasts against it; None: no noise.

    The mean has the dtype of the state, a scale that is a tensor float32 at least.
    """

    mean: Tensor
    scale: Tensor | float | None


def of_rows(
    compute: Callable[..., dict[str, Moments]],
    spec: StateSpec,
    context: Any,
    batch_size: int | None,
    batched: bool | None,
    rows: Tensor | None,
    alike: bool,
) -> dict[str, Moments]:
    """`compute(context, batch_size, batched)` of some rows of the batch, any number of times; of all for None.

    Where all rows are `alike`, those of a batch of so many, which do without a selection and its gradient.
    """
    if rows is None:
        return compute(context, batch_size, batched)
    if isinstance(rows, Tensor):
        check_readable("rows", rows)
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.ndim != 1:
        raise TypeError(f"rows: expected a tensor of int64 with one axis, got {described(rows)}")
    least, most = map(int, rows.aminmax()) if rows.numel() else (0, -1)
    if alike:
        _check_rows(least, most, batch_of(context, batch_size, batched))
        return compute(None, len(rows), True)
    chosen, leaves = {}, {leaf.name: leaf for leaf in spec}
    # In the order of the moments, which that of the draws follows.
    for name, (mean, scale) in compute(context, batch_size, batched).items():
        _check_rows(least, most, rows_of(leaves[name], mean))
        index = rows.to(mean.device)
        if isinstance(scale, Tensor) and scale.ndim == mean.ndim:
            scale = scale.index_select(0, index)
        chosen[name] = Moments(mean.index_select(0, index), scale)
    return chosen


def _check_rows(least: int, most: int, size: int | None) -> None:
    if size is None:
        raise ValueError("rows: expected only with a batch, got one example")
    if least < 0 or most >= size:
        raise ValueError(f"rows: expected 0 to {size - 1}, got {least} to {most}")


def repeated(leaf: Leaf, moments: Moments, copies: int) -> Moments:
    """The moments of a leaf with each row `copies` times; one example becomes a batch of that many."""
    mean, scale = moments
    if isinstance(scale, Tensor) and rows_of(leaf, scale) is not None:
        scale = scale.repeat_interleave(copies, 0)
    single = rows_of(leaf, mean) is None
    return Moments(mean.expand(copies, *mean.shape) if single else mean.repeat_interleave(copies, 0), scale)


def draws(
    spec: StateSpec, moments: Mapping[str, Moments], num_samples: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """`num_samples` draws of each row of every leaf, leaf by leaf in the order of the moments, as in `forward`."""
    leaves = {leaf.name: leaf for leaf in spec}
    return {name: draw(repeated(leaves[name], leaf, num_samples), generator) for name, leaf in moments.items()}


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

"""Mean and scale of a leaf, and a draw from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Of one leaf: the mean, (B, *shape) or `shape`, and the scale, which broadcasts against it; None: no noise."""

    mean: Tensor
    scale: Tensor | float | None


def draw(moments: Moments, generator: torch.Generator | None) -> Tensor:
    mean, scale = moments
    if scale is None:
        return mean
    if generator is not None and generator.device.type != mean.device.type and not mean.is_meta:
        raise ValueError(f"generator: expected one on {mean.device}, as the state, got one on {generator.device}")
    return mean + scale * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)

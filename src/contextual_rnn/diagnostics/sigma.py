"""Whether a distribution of initial states still has a spread."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from contextual_rnn.diagnostics.influence import finite_or_none
from contextual_rnn.states import Moments

COLLAPSED = 0.01  # of the size of the means


@dataclass(frozen=True)
class Sigma:
    """Sigma of one leaf of a random initial state.

    `mean` and `smallest` are over units and contexts, `spread` is the standard deviation of the mean state over
    contexts, averaged over units: sigma far above it hides the context, far below it is no distribution any more.
    `collapsed` is the share of units with a sigma under 1 % of the root mean square of the mean state. All are nan
    where a sigma or a mean is not finite.
    """

    mean: float
    smallest: float
    spread: float
    collapsed: float

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, asdict(self).values()))

    def as_dict(self) -> dict[str, float | None]:
        """As JSON takes it; what is not finite is null."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}


def sigma_of(moments: Moments) -> Sigma | None:
    """Of one leaf with means (B, *shape); None for a leaf without noise."""
    if moments.scale is None:
        return None
    means = moments.mean.detach().flatten(1)
    means = means.to(torch.complex128 if means.is_complex() else torch.float64)
    scales = torch.as_tensor(moments.scale, dtype=torch.float64, device=means.device).detach()
    scales = scales.expand_as(moments.mean).flatten(1)
    if not (means.isfinite().all() and scales.isfinite().all()):
        return Sigma(math.nan, math.nan, math.nan, math.nan)
    size = means.abs().square().mean().sqrt()
    collapsed = scales.mean(0) < COLLAPSED * size
    spread = means.std(0, correction=0).mean().item()
    return Sigma(scales.mean().item(), scales.min().item(), spread, collapsed.double().mean().item())

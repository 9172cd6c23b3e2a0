"""How often the truth lies inside the band of sampled trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A band of two standard deviations to either side holds this share of a normal distribution.
TWO_DEVIATIONS = math.erf(2 / math.sqrt(2))
LEVELS = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.99)


def deviations_of(level: float) -> float:
    """Half the width of the central interval of a normal distribution that holds `level`, in standard deviations."""
    return math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64, device="cpu")).item()


def coverage(paths: Tensor, truth: Tensor, deviations: Sequence[float]) -> Tensor:
    """Share of values of `truth` within mean +- d standard deviations of the samples, for every d of `deviations`.

    paths (N, S, T) are S samples of each of N sequences, truth (N, T); mean and standard deviation (S - 1 in the
    denominator) are taken over the samples of one sequence at one step. Returns (N, D), the share over the T steps.
    """
    distance, spread = (truth - paths.mean(1)).abs(), paths.std(1)
    within = distance[..., None] <= spread[..., None] * torch.tensor(deviations, dtype=paths.dtype, device=paths.device)
    return within.double().mean(1)

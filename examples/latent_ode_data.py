"""Spirals seen at irregular times, and the errors that latent_ode.py measures on them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

TURN, NOISE = 2 * math.pi, 0.1  # a turn takes this time; the standard deviation of what is added to a coordinate
END, WINDOW = TURN, (0.25 * TURN, 0.75 * TURN)  # samples are from time 0 to END; the encoder sees those of the window
# Where held-out spirals are measured: where the encoder saw samples, where training had samples that the encoder does
# not see, and where training had none.
PARTS = {
    "inside": WINDOW,
    "forward": (WINDOW[1], END),
    "backward": (0.0, WINDOW[0]),
    "forward, beyond training": (END, END + TURN / 4),
    "backward, beyond training": (-TURN / 4, 0.0),
}


class Spirals(NamedTuple):
    """x(t) = r(t) (cos a(t), sin a(t)), r(t) = radius + growth (t - END / 2), a(t) = phase + direction t.

    All are (B,). A spiral grows or shrinks, and turns left or right.
    """

    radius: Tensor
    growth: Tensor
    phase: Tensor
    direction: Tensor

    @classmethod
    def drawn(cls, count: int, generator: torch.Generator) -> "Spirals":
        radius, growth, phase, sign, direction = torch.rand(5, count, generator=generator)
        growth = (0.5 + 0.5 * growth) / TURN * (sign < 0.5).float().mul(2).sub(1)
        return cls(1 + radius / 2, growth, TURN * phase, (direction < 0.5).float().mul(2).sub(1))

    def at(self, times: Tensor) -> Tensor:
        """Positions (B, T, 2) at times (B, T), without noise."""
        radius, growth, phase, direction = (part[:, None] for part in self)
        angle = phase + direction * times
        return (radius + growth * (times - END / 2))[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


class Samples(NamedTuple):
    """Noisy positions x (B, N, 2) at ascending times (B, N); True in `seen` (B, N) where the encoder sees them."""

    x: Tensor
    times: Tensor
    seen: Tensor

    def rows(self, some: Tensor) -> "Samples":
        return Samples(*(part[some] for part in self))


def uniform_times(spirals: int, times: int, start: float, end: float, generator: torch.Generator) -> Tensor:
    """Ascending times (spirals, times), every spiral's own."""
    return (start + (end - start) * torch.rand(spirals, times, generator=generator)).sort(1).values


def sampled(spirals: Spirals, samples: int, generator: torch.Generator) -> Samples:
    """Each spiral with noise, at times of its own from 0 to END."""
    times = uniform_times(len(spirals.radius), samples, 0.0, END, generator)
    exact = spirals.at(times)
    x = exact + NOISE * torch.randn(exact.shape, generator=generator)
    return Samples(x, times, (times >= WINDOW[0]) & (times < WINDOW[1]))


def errors(path: Tensor, truth: Tensor, times: Tensor) -> dict[str, float]:
    """The root of the mean squared distance of paths (B, T, 2) from true ones, by part of the times (B, T)."""
    squared = (path - truth).square().sum(-1)
    parts = {name: (times >= start) & (times < end) for name, (start, end) in PARTS.items()}
    return {name: float(squared[part].mean().sqrt()) for name, part in parts.items()}

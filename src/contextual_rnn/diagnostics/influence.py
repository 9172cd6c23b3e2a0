"""How far h(0) influences a sequence: the gradient of h(t) by h(0), its half-life, a burn-in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FADED = 0.01  # of the largest influence: what is left after the burn-in
SMALLEST = 1e-30  # of the largest influence: below, float32 has lost its digits


@dataclass(frozen=True)
class Influence:
    """The size of dh(t)/dh(0) after some steps t = 1 .. T of a sequence of `length` T.

        influence(t) = sqrt(mean over the batch of ||dh(t)/dh(0)||_F^2 / H)

    summed over the leaves of the state under the root: 1 for a network that copies h(0), r^t for one that keeps r of
    its state in a step, 0 for one that ignores it. `leaves` has the share of each leaf, (S,) for `steps`.
    """

    steps: tuple[int, ...]
    length: int
    leaves: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The influence of the whole state, (S,)."""
        return torch.stack([leaf.square() for leaf in self.leaves.values()]).sum(0).sqrt()

    @property
    def not_finite_from(self) -> int | None:
        """The first measured step after which the influence is not finite; None where it is everywhere."""
        return next((step for step, value in zip(self.steps, self.total, strict=True) if not value.isfinite()), None)

    @property
    def half_life(self) -> float:
        """Steps in which the influence halves, from where it is largest on: ln 2 / slope of ln influence over t.

        The slope is that of least squares. 0 without any influence, infinite where it does not fade, nan where it is
        not finite.
        """
        if self.not_finite_from is not None:
            return math.nan
        steps, values = self._fading()
        if not steps:
            return 0.0
        if len(steps) < 2:  # an influence in one step only
            return math.inf if len(self.steps) == 1 or steps[0] == self.steps[-1] else 0.0
        t = torch.tensor(steps, dtype=torch.float64, device="cpu")
        t = t - t.mean()
        slope = ((t * values.log()).sum() / t.square().sum()).item()
        return math.log(2) / -slope if slope < 0 else math.inf

    @property
    def burn_in(self) -> int | None:
        """Steps after which no more than 1 % of the largest influence is left; None where T steps do not suffice,
        or the influence is not finite.

        What to run, and leave out of the loss, before a sequence whose initial state is not known. Between measured
        steps the influence is taken to fade exponentially.
        """
        if self.not_finite_from is not None:
            return None
        values = self.total
        peak = values.max().item()
        if peak == 0:
            return 0
        strong = [index for index, value in enumerate(values.tolist()) if value > FADED * peak]
        last = strong[-1]
        if last == len(self.steps) - 1:
            return None
        before, after = values[last].item(), max(values[last + 1].item(), SMALLEST * peak)
        start, end = self.steps[last], self.steps[last + 1]
        part = math.log(before / (FADED * peak)) / math.log(before / after)
        return math.ceil(start + part * (end - start) - 1e-6)

    def as_dict(self) -> dict[str, object]:
        """As JSON takes it; what is not finite is null."""
        half_life = finite_or_none(self.half_life)
        leaves = {name: [finite_or_none(value) for value in values.tolist()] for name, values in self.leaves.items()}
        return {"steps": list(self.steps), "leaves": leaves, "half_life": half_life, "burn_in": self.burn_in}

    def _fading(self) -> tuple[list[int], Tensor]:
        values = self.total
        peak = int(values.argmax())
        fading = [i for i in range(peak, len(self.steps)) if values[i] > SMALLEST * values[peak]]
        return [self.steps[i] for i in fading], values[fading]


def finite_or_none(value: float) -> float | None:
    """A number as JSON takes it."""
    return value if math.isfinite(value) else None


def measured_steps(length: int, most: int) -> list[int]:
    """At most `most` steps of 1 .. length, the first and the last among them, denser where the influence is young."""
    if length <= most:
        return list(range(1, length + 1))
    ratio = torch.linspace(0, math.log(length), most, dtype=torch.float64, device="cpu").exp()
    return sorted({round(step) for step in ratio.tolist()})


def influence_of(
    hidden: Tensor,
    leaves: Mapping[str, Tensor],
    steps: Sequence[int],
    lengths: Tensor | None,
    generator: torch.Generator,
) -> Influence:
    """The influence of `leaves`, each (B, *shape), on `hidden`, (B, T, H), after `steps`.

    By Hutchinson's estimate: for v of random signs E ||v dh(t)/dh(0)||^2 = ||dh(t)/dh(0)||_F^2, a v for each sequence
    and the same for all steps, so that what fades exponentially is measured to the last digit.
    """
    if hidden.is_complex():
        hidden = torch.view_as_real(hidden).flatten(2)
    batch, length, units = hidden.shape
    signs = 2.0 * torch.randint(2, (batch, units), generator=generator, device=generator.device) - 1
    signs = signs.to(hidden.device, hidden.dtype)
    squares: dict[str, list[float]] = {name: [] for name in leaves}
    for step in steps:
        rows = torch.ones(batch, dtype=torch.bool, device="cpu") if lengths is None else lengths.cpu() >= step
        along = (signs * hidden[:, step - 1]).sum()
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if along.requires_grad:
            gradients = torch.autograd.grad(along, list(leaves.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            size = 0.0 if gradient is None else _mean_square(gradient[rows.to(gradient.device)])
            if size < torch.finfo(hidden.dtype).tiny ** 2:
                size = 0.0  # gradients of this dtype have lost their digits there
            squares[name].append(size / units)
    roots = {name: torch.tensor(values, dtype=torch.float64, device="cpu").sqrt() for name, values in squares.items()}
    return Influence(tuple(steps), length, roots)


def _mean_square(gradient: Tensor) -> float:
    gradient = gradient.detach()
    rows = (torch.view_as_real(gradient) if gradient.is_complex() else gradient).flatten(1).double()
    return rows.square().sum(1).mean().item() if len(rows) else 0.0

"""Domains of leaves, such as positive numbers, and the real numbers that stand for them where a leaf is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DomainName = Literal["positive", "unit_interval"]  # as in torch.distributions.constraints
# What stands for a limit: its softplus and its sigmoid are the limit to the bit, and sums of it are finite.
FAR = 1000.0
STRAIGHT = 50.0  # softplus is the identity above: torch's threshold of 20 has 9 of the 16 digits of float64


class Domain(NamedTuple):
    """An open interval, an increasing function from the real numbers onto it, and the logarithm of its derivative."""

    words: str
    least: float
    most: float
    constrain: Callable[[Tensor], Tensor]
    unconstrain: Callable[[Tensor], Tensor]
    log_slope: Callable[[Tensor], Tensor]

    def has(self, value: float, *, limits: bool) -> bool:
        """Whether a number is inside, or at one of the `limits` where they count."""
        return self.least < value < self.most or (limits and value in (self.least, self.most))


def _softplus(unconstrained: Tensor) -> Tensor:
    return functional.softplus(unconstrained, threshold=STRAIGHT)


def _inverse_of_softplus(value: Tensor) -> Tensor:
    return (value + torch.log(-torch.expm1(-value))).clamp(min=-FAR)


def _logit(value: Tensor) -> Tensor:
    return torch.logit(value).clamp(-FAR, FAR)


DOMAINS: dict[DomainName, Domain] = {
    "positive": Domain(
        "positive numbers", 0.0, float("inf"), _softplus, _inverse_of_softplus, functional.logsigmoid
    ),
    "unit_interval": Domain(
        "numbers between 0 and 1", 0.0, 1.0, torch.sigmoid, _logit,
        lambda unconstrained: functional.logsigmoid(unconstrained) + functional.logsigmoid(-unconstrained),
    ),
}  # fmt: skip

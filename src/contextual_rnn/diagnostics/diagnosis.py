"""The result of a diagnosis, as a table, a plot and a dict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from contextual_rnn.diagnostics.influence import Influence, finite_or_none
from contextual_rnn.diagnostics.sigma import Sigma

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 8  # steps in the table


@dataclass(frozen=True)
class Diagnosis:
    """Did the initial state matter?

    `losses` has the mean loss of every step that any sequence has, (T,), under the states: `true` (what the model
    makes), `zeroed`, `mean` (that of the batch, for every sequence), `shuffled` (that of another sequence, mean over
    the permutations) and, where the state is random, `sampled` (a draw; the others stand on its mean). `overall` has
    their means over all steps and sequences. `p_value` is that of the permutation test; None where all sequences have
    the same state, or no permutations were asked for, or losses of the test are not finite. `influence` is None where
    no h(t) was to be seen.
    `groups` is the number of groups whose states were permuted, None where single sequences were. `sigma` has the
    random leaves. `not_finite` says, a sentence each, which losses, states and h(t) are not finite.
    """

    losses: Mapping[str, Tensor]
    overall: Mapping[str, float]
    permutations: int
    p_value: float | None
    influence: Influence | None
    sigma: Mapping[str, Sigma]
    not_finite: tuple[str, ...] = ()
    groups: int | None = None

    @property
    def half_life(self) -> float | None:
        """Steps in which the influence of h(0) halves; see `Influence`."""
        return None if self.influence is None else self.influence.half_life

    @property
    def burn_in(self) -> int | None:
        """Suggested steps to run before the loss counts where the initial state is not known; see `Influence`."""
        return None if self.influence is None else self.influence.burn_in

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Losses at some steps and over all, then the findings, a line each."""
        length = len(self.losses["true"])
        lines = ["".join(["step".ljust(8), *(name.rjust(12) for name in self.losses)])]
        for step in _steps_in_table(length):
            values = (f"{curve[step - 1].item():12.4g}" for curve in self.losses.values())
            lines.append("".join([str(step).ljust(8), *values]))
        lines.append("".join(["all".ljust(8), *(f"{value:12.4g}" for value in self.overall.values())]))
        return "\n".join([*lines, "", *self.findings()])

    def plot(self) -> Figure:
        """The losses step by step and the influence of h(0), as a matplotlib Figure (matplotlib must be installed)."""
        from contextual_rnn.diagnostics.plot import draw

        return draw(self.losses, self.influence, self.not_finite)

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it: what is not finite, or was not measured, as null."""
        return {
            "losses": {name: [finite_or_none(loss) for loss in curve.tolist()] for name, curve in self.losses.items()},
            "overall": {name: finite_or_none(value) for name, value in self.overall.items()},
            "permutations": self.permutations,
            "groups": self.groups,
            "p_value": self.p_value,
            "influence": None if self.influence is None else self.influence.as_dict(),
            "sigma": {name: sigma.as_dict() for name, sigma in self.sigma.items()},
            "not_finite": list(self.not_finite),
        }

    def findings(self) -> list[str]:
        """The sentences under the table: what is not finite, the p-value, the influence of h(0), sigma, a line each."""
        lines = list(self.not_finite)
        if self.p_value is not None:
            other, of = ("sequence", "") if self.groups is None else ("group", f" of {self.groups} groups")
            hypothesis = f"that another {other}'s state does as well ({self.permutations} permutations{of})"
            lines.append(f"p = {self.p_value:.3g} for the hypothesis {hypothesis}")
        elif not self.permutations:
            lines.append("no p-value: no permutations were asked for")
        elif not all(math.isfinite(self.overall.get(arm, 0.0)) for arm in ("true", "shuffled")):
            lines.append("no p-value: the losses are not finite")
        else:
            lines.append("no p-value: every sequence has the same initial state")
        lines.append(f"influence of h(0): {_influence(self.influence)}")
        lines += [f"sigma of {name}: {_sigma(sigma)}" for name, sigma in self.sigma.items()]
        return lines


def _influence(influence: Influence | None) -> str:
    if influence is None:
        return "not measured, no h(t) was to be seen"
    if (step := influence.not_finite_from) is not None:
        return f"not finite from step {step} on"
    return f"{_half_life(influence.half_life)}; {_burn_in(influence)}"


def _sigma(sigma: Sigma) -> str:
    if not sigma.finite:
        return "not finite"
    return (
        f"{sigma.mean:.3g} (smallest {sigma.smallest:.3g}), the means spread by {sigma.spread:.3g} over contexts, "
        f"{sigma.collapsed:.0%} of the units collapsed"
    )


def _half_life(steps: float) -> str:
    if steps == 0:
        return "none"
    return f"halves every {steps:.3g} steps" if math.isfinite(steps) else "does not fade"


def _burn_in(influence: Influence) -> str:
    if influence.burn_in is None:
        return f"a burn-in of more than the {influence.length} steps"
    return f"a burn-in of {influence.burn_in} steps"


def _steps_in_table(length: int) -> list[int]:
    if length <= ROWS:
        return list(range(1, length + 1))
    return sorted({1 + round(index * (length - 1) / (ROWS - 1)) for index in range(ROWS)})

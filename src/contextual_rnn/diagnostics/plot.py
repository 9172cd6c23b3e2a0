"""A diagnosis as a picture; needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from contextual_rnn._pictures import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION, styled
from contextual_rnn.diagnostics.influence import FADED, Influence

LINES = {  # distinguished without colour too
    "true": (GREEN, "-"),
    "zeroed": (BLUE, "--"),
    "mean": (ORANGE, "-."),
    "shuffled": (VERMILION, ":"),
    "sampled": (PURPLE, (0, (5, 1, 1, 1, 1, 1))),
}


@styled()
def draw(losses: Mapping[str, Tensor], influence: Influence | None, not_finite: Sequence[str]) -> Figure:
    """Left the loss of every step under each state, right the influence of h(0) where it was measured."""
    figure = Figure(figsize=(9.6, 3.4))
    count = 1 if influence is None else 2
    panels = [figure.add_subplot(1, count, index + 1) for index in range(count)]
    for axes in panels:
        axes.set_xlabel("step t")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    _losses(panels[0], losses)
    if not_finite:
        text = "\n".join(textwrap.fill(sentence, 120) for sentence in not_finite)
        figure.suptitle(text, fontsize=8, color="#B00020")
    if influence is not None:
        axes, total = panels[1], influence.total
        axes.plot(influence.steps, total.tolist(), color=INK, label="all", marker="o", ms=3)
        if len(influence.leaves) > 1:
            for index, (name, values) in enumerate(influence.leaves.items()):
                dashes = ("--", ":", "-.")[index % 3]
                axes.plot(influence.steps, values.tolist(), ls=dashes, lw=1.2, label=f"by {name}(0)")
            axes.legend()
        if (total > 0).any():
            axes.set_yscale("log", nonpositive="mask")
        if (total > 0).any() and influence.not_finite_from is None:
            axes.axhline(FADED * total.max().item(), color=FAINT, lw=0.8)
        axes.set_ylabel("influence, size of dh(t)/dh(0)")
    return figure


def _losses(axes: Axes, losses: Mapping[str, Tensor]) -> None:
    """A line for each state, or a point where there is one loss for the whole sequence."""
    whole = len(losses["true"]) == 1
    for place, (name, curve) in enumerate(losses.items()):
        colour, dashes = LINES[name]
        steps = [place] if whole else range(1, len(curve) + 1)
        axes.plot(steps, curve.tolist(), color=colour, ls=dashes, marker="o" if whole else "", label=name)
    if whole:
        axes.set_xticks(range(len(losses)), list(losses))
        axes.set(xlabel="initial state", xlim=(-0.5, len(losses) - 0.5))
    else:
        axes.legend(title="initial state")
    values = torch.cat(list(losses.values()))
    values = values[values.isfinite()]
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    axes.set_ylabel("loss")

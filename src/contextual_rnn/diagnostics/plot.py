"""A diagnosis as a picture; needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from contextual_rnn.diagnostics.influence import FADED

if TYPE_CHECKING:
    from contextual_rnn.diagnostics.diagnosis import Diagnosis

# Okabe and Ito's palette, told apart by colour-blind readers; dashes tell the lines apart without colour.
LINES = {
    "true": ("#009E73", "-"),
    "zeroed": ("#0072B2", "--"),
    "mean": ("#E69F00", "-."),
    "shuffled": ("#D55E00", ":"),
    "sampled": ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
}


def draw(diagnosis: Diagnosis) -> Figure:
    """Left the loss of every step under each state, right the influence of h(0) where it was measured."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    count = 1 if diagnosis.influence is None else 2
    panels = [figure.add_subplot(1, count, index + 1) for index in range(count)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#DDDDDD", lw=0.6)
        axes.set_xlabel("step t")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    for name, curve in diagnosis.losses.items():
        colour, dashes = LINES[name]
        marker = "o" if len(curve) == 1 else ""
        panels[0].plot(range(1, len(curve) + 1), curve.tolist(), color=colour, ls=dashes, marker=marker, label=name)
    if all((curve > 0).all() for curve in diagnosis.losses.values()):
        panels[0].set_yscale("log")
    panels[0].set_ylabel("loss")
    panels[0].legend(title="initial state", frameon=False, fontsize=9, title_fontsize=9)
    influence = diagnosis.influence
    if influence is not None:
        axes, total = panels[1], influence.total
        axes.plot(influence.steps, total.tolist(), color="#333333", label="all", marker="o", ms=3)
        if len(influence.leaves) > 1:
            for index, (name, values) in enumerate(influence.leaves.items()):
                dashes = ("--", ":", "-.")[index % 3]
                axes.plot(influence.steps, values.tolist(), ls=dashes, lw=1.2, label=f"by {name}(0)")
            axes.legend(frameon=False, fontsize=9)
        if (total > 0).any():
            axes.set_yscale("log", nonpositive="mask")
            axes.axhline(FADED * total.max().item(), color="#888888", lw=0.8)
        axes.set_ylabel("influence, size of dh(t)/dh(0)")
    return figure

"""One style for every picture: colours, type and lines of the report, the examples, the benchmarks and the pages."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import matplotlib
from cycler import cycler

# Okabe and Ito's palette, which colour-blind readers can distinguish.
PALETTE = BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
INK, FAINT, GRID = "#333333", "#888888", "#DDDDDD"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.title_fontsize": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextlib.contextmanager
def styled() -> Generator[None, None, None]:
    """The style while a figure is drawn: `with styled():`, or `@styled()` above the function that draws it."""
    with matplotlib.rc_context(STYLE):
        yield

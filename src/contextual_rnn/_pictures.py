"""One style for every picture: colours, type and lines of the report, the examples, the benchmarks and the pages."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Generator
from typing import Any

import matplotlib
import numpy
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

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


LEGEND_SIZE = STYLE["legend.fontsize"]
# In ems, as matplotlib draws them: the line and the space beside a text, the space between columns, both margins; the
# heights of a line of text and of the space between two labels.
_LINE, _BETWEEN, _MARGINS, _HEIGHT, _SPACE = 2.8, 2.0, 1.8, 1.2, 0.5


def legend_above(figure: Figure, axes: Axes) -> None:
    """Above all panels, the names of what is in `axes`: as many columns as fit the figure's width, long names wrapped.

    The figure becomes higher by the rows after the first, so that the panels keep their size.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    room = 72 * figure.get_figwidth() / LEGEND_SIZE - _MARGINS  # in ems
    labels = [_wrapped(label, room - _LINE) for label in labels]
    columns = next((n for n in range(min(len(labels), 4), 1, -1) if _width(labels, n) <= room), 1)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    rows = [labels[row::columns] for row in range(-(-len(labels) // columns))]
    lines = sum(max(label.count("\n") + 1 for label in row) for row in rows)
    height = (lines - 1) * _HEIGHT + (len(rows) - 1) * _SPACE
    figure.set_figheight(figure.get_figheight() + height * LEGEND_SIZE / 72)


def _width(labels: list[str], columns: int) -> float:
    """Of a legend, in ems."""
    texts = [max(map(_ems, column)) for column in numpy.array_split(labels, columns)]
    return sum(texts) + columns * _LINE + (columns - 1) * _BETWEEN


def _wrapped(label: str, room: float) -> str:
    text, characters = label, len(label)
    while _ems(text) > room and characters > 1:
        characters -= 1
        text = textwrap.fill(label, characters)
    return text


def _ems(text: str) -> float:
    """The width of the longest line in the font that matplotlib has with it, wider than most that a browser takes."""
    font = FontProperties(family="DejaVu Sans", size=100)
    return max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")) / 100

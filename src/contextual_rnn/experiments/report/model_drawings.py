"""Our own drawings of the paper's two models (its figures 1 and 3). Lengths are in units of the drawing, 0.66 inch."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

Point = tuple[float, float]

INK, SIGMA = "#333333", "\N{GREEK SMALL LETTER SIGMA}"
PLAIN, CONTEXT, STATE, VALUE = "#DCE9F5", "#FBE3D3", "#D7F0E5", "#F4F4F4"
INCHES, HEIGHT = 0.66, 0.66


def retrieval_model() -> Figure:
    """Figure 1: fast weights on associative retrieval, the initial state from the embedding of the first character."""
    figure, axes = _canvas(15.7, 3.9)
    token, embedding, network = rows = (0.5, 1.6, 2.9)
    columns = [3.1 + 1.2 * index for index in range(8)]
    for x, character in zip(columns, "c9k8…??k", strict=True):
        _character(axes, x, character, rows)
    for x in columns[:-1]:
        _arrow(axes, (x + 0.4, network), (x + 0.8, network))
    _box(axes, (1.15, embedding), "g: one linear layer", CONTEXT, width=2.1)
    _box(axes, (1.15, network), "h(0), and A(0)\nwhere asked for", STATE, width=2.1, height=0.9)
    _arrow(axes, (columns[0] - 0.4, embedding), (2.2, embedding))
    _arrow(axes, (1.15, 1.93), (1.15, 2.45))
    _arrow(axes, (2.2, network), (columns[0] - 0.4, network))
    end = columns[-1] + 0.4
    for x, text, colour, width in (
        (12.8, "100 ReLU", PLAIN, 1.2),
        (14.3, "softmax", PLAIN, 1.1),
        (15.35, "8", VALUE, 0.5),
    ):
        _box(axes, (x, network), text, colour, width=width)
        _arrow(axes, (end, network), (x - width / 2, network))
        end = x + width / 2
    _text(axes, (columns[0] - 0.4, 3.55), "FW: one step of the fast-weights network, 50 units", align="left")
    _text(axes, (columns[-1] + 0.6, embedding), "ψ: shared embedding of size 100", align="left")
    _text(axes, (columns[-1] + 0.6, token), "one character a step", align="left")
    return figure


def decay_model() -> Figure:
    """Figure 3: an LSTM on linear cosine decay, the initial state drawn around g(x(0), T)."""
    figure, axes = _canvas(15.7, 5.0)
    _box(axes, (1.2, 0.6), "x(0), T", VALUE, width=1.3)
    _box(axes, (1.2, 1.75), "g: 50 ReLU,\nlinear", CONTEXT, width=1.6, height=0.9)
    _box(axes, (3.5, 1.75), f"softplus({SIGMA}),\n{SIGMA} free", CONTEXT, width=1.6, height=0.9)
    _box(axes, (2.35, 3.2), f"sample h(0), c(0)\n~ N(μ, softplus({SIGMA})²)", STATE, width=2.6, height=0.9)
    _arrow(axes, (1.2, 0.93), (1.2, 1.3))
    _arrow(axes, (1.2, 2.2), (1.75, 2.75))
    _arrow(axes, (3.5, 2.2), (2.95, 2.75))
    _text(axes, (1.2, 2.52), "μ", size=11)
    _arrow(axes, (3.65, 3.2), (4.9, 3.2))
    for step, x in enumerate((5.6, 8.8, 12.0)):
        _decay_step(axes, x, step)
    for y in (0.6, 3.2):
        _text(axes, (15.0, y), "…", size=14)
    return figure


def _character(axes: Axes, x: float, character: str, rows: tuple[float, float, float]) -> None:
    """A character, its embedding and the network's step that reads it; … stands for the characters left out."""
    for y, text, colour in zip(rows, (character, "ψ", "FW"), (VALUE, PLAIN, PLAIN), strict=True):
        if character == "…":
            _text(axes, (x, y), character, size=14)
        else:
            _box(axes, (x, y), text, colour, width=0.8)
    if character != "…":
        for below, above in pairwise(rows):
            _arrow(axes, (x, below + HEIGHT / 2), (x, above - HEIGHT / 2))


def _decay_step(axes: Axes, x: float, step: int) -> None:
    """One step at `x`: value, LSTM, linear unit, and the sum of value and change that the next step reads."""
    value, lstm, unit, plus = 0.6, 3.2, 4.5, x + 1.6
    _box(axes, (x, value), f"x({step})", VALUE, width=0.9)
    _box(axes, (x, lstm), "LSTM, 128", PLAIN, width=1.4)
    _box(axes, (x, unit), "one linear unit", PLAIN, width=1.7)
    _box(axes, (plus, value), "+", VALUE, width=0.36, height=0.36)
    _text(axes, (plus + 0.12, 3.85), f"δx({step + 1})", align="left")
    _arrow(axes, (x, value + HEIGHT / 2), (x, lstm - HEIGHT / 2))
    _arrow(axes, (x, lstm + HEIGHT / 2), (x, unit - HEIGHT / 2))
    _arrow(axes, (x + 0.7, lstm), (x + 2.5, lstm))
    axes.plot([x + 0.85, plus], [unit, unit], color=INK, lw=1.1)
    _arrow(axes, (plus, unit), (plus, value + 0.18))
    _arrow(axes, (x + 0.45, value), (plus - 0.18, value))
    _arrow(axes, (plus + 0.18, value), (x + 2.75, value))


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width * INCHES, height * INCHES))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def _box(axes: Axes, centre: Point, text: str, colour: str, *, width: float, height: float = HEIGHT) -> None:
    corner = (centre[0] - width / 2, centre[1] - height / 2)
    style = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=colour, edgecolor=INK, lw=1.0))
    _text(axes, centre, text)


def _text(axes: Axes, at: Point, text: str, *, size: float = 9.0, align: str = "center") -> None:
    axes.text(*at, text, ha=align, va="center", fontsize=size, color=INK, linespacing=1.3)


def _arrow(axes: Axes, start: Point, end: Point) -> None:
    line = {"arrowstyle": "->", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=line)

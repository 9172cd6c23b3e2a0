"""Our drawings of the paper's two models (its Figures 1 and 3)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

EDGE = "#555555"
PLAIN, CONTEXT, STATE, OUTPUT = "#DCE9F5", "#FBE3D3", "#D7F0E5", "#F4F4F4"
HEIGHT = 0.62


def retrieval_model() -> Figure:
    """Figure 1: fast weights on associative retrieval, the initial state from the embedding of the first character."""
    axes = _canvas(12.2, 5.0)
    tokens = ["c", "9", "k", "8", "...", "?", "?", "k"]
    x = [2.4 + 1.15 * index for index in range(len(tokens))]
    for index, (token, left) in enumerate(zip(tokens, x, strict=True)):
        if token == "...":
            for height in (0.5, 1.55, 3.0):
                axes.text(left, height, "...", ha="center", va="center", color=EDGE, fontsize=13)
            continue
        _box(axes, left, 0.5, token, OUTPUT, width=0.7)
        _box(axes, left, 1.55, "embed", PLAIN, width=0.95)
        _box(axes, left, 3.0, "FW", PLAIN, width=0.85)
        _arrow(axes, (left, 0.81), (left, 1.24))
        _arrow(axes, (left, 1.86), (left, 2.69))
        if index:
            _arrow(axes, (x[index - 1] + (0.22 if tokens[index - 1] == "..." else 0.43), 3.0), (left - 0.43, 3.0))
    _arrow(axes, (x[3] + 0.43, 3.0), (x[4] - 0.22, 3.0))
    _box(axes, 0.75, 1.55, "g: one\nlinear layer", CONTEXT, width=1.25, height=0.8)
    _box(axes, 0.75, 3.0, "h(0), A(0)", STATE, width=1.25)
    _arrow(axes, (x[0] - 0.48, 1.55), (1.38, 1.55))
    _arrow(axes, (0.75, 1.95), (0.75, 2.69))
    _arrow(axes, (1.38, 3.0), (x[0] - 0.43, 3.0))
    last = x[-1]
    _box(axes, last, 4.35, "100 ReLU, softmax: 8", OUTPUT, width=2.6)
    _arrow(axes, (last, 3.31), (last, 4.04))
    axes.text(0.1, 4.5, "FW: one step of the fast-weights network, 50 units", fontsize=9, color=EDGE, va="center")
    return _figure(axes)


def decay_model() -> Figure:
    """Figure 3: an LSTM on linear cosine decay, the initial state drawn around g(x(0), T)."""
    axes = _canvas(12.2, 5.0)
    _box(axes, 1.0, 0.5, "x(0), T", OUTPUT, width=1.2)
    _box(axes, 1.0, 1.6, "g: 50 ReLU,\nlinear", CONTEXT, width=1.4, height=0.8)
    _box(axes, 3.0, 1.6, "softplus(s)", CONTEXT, width=1.4)
    _box(axes, 2.0, 3.0, "h(0), c(0) ~ N(mean, sigma)", STATE, width=3.2)
    _arrow(axes, (1.0, 0.81), (1.0, 1.2))
    _arrow(axes, (1.0, 2.0), (1.5, 2.69))
    _arrow(axes, (3.0, 1.91), (2.5, 2.69))
    axes.text(0.75, 2.32, "mean", fontsize=9, color=EDGE, ha="center")
    axes.text(3.2, 2.32, "sigma", fontsize=9, color=EDGE, ha="center")
    steps = [5.2, 7.4, 9.6]
    for index, left in enumerate(steps):
        _box(axes, left, 1.3, f"x({index})", OUTPUT, width=0.9)
        _box(axes, left, 3.0, "LSTM 128", PLAIN, width=1.3)
        _box(axes, left, 4.35, f"linear: dx({index + 1})", OUTPUT, width=1.5)
        _arrow(axes, (left, 1.61), (left, 2.69))
        _arrow(axes, (left, 3.31), (left, 4.04))
        _arrow(axes, ((3.6 if index == 0 else steps[index - 1] + 0.65), 3.0), (left - 0.65, 3.0))
        follows = steps[index + 1] if index + 1 < len(steps) else left + 2.2
        turn = left + 1.1
        axes.plot([left + 0.75, turn, turn], [4.35, 4.35, 1.3], color=EDGE, lw=1.1, ls=":")
        _arrow(axes, (turn, 1.3), (follows - (0.45 if index + 1 < len(steps) else 0.6), 1.3), dotted=True)
    _arrow(axes, (steps[-1] + 0.65, 3.0), (11.2, 3.0))
    axes.text(11.45, 3.0, "...", ha="center", va="center", color=EDGE, fontsize=13)
    axes.text(11.45, 1.3, "...", ha="center", va="center", color=EDGE, fontsize=13)
    axes.text(7.9, 0.35, "x(t+1) = x(t) + dx(t+1): predictions are fed back", fontsize=9, color=EDGE, ha="center")
    return _figure(axes)


def _canvas(width: float, height: float) -> Axes:
    figure = Figure(figsize=(width * 0.75, height * 0.75), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_aspect("equal")
    axes.axis("off")
    return axes


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, colour: str, *, width: float, height: float = HEIGHT) -> None:
    corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=colour, edgecolor=EDGE, lw=1.0))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color="#222222")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], dotted: bool = False) -> None:
    line = {"arrowstyle": "->", "color": EDGE, "lw": 1.1, "ls": ":" if dotted else "-", "shrinkA": 0, "shrinkB": 1}
    axes.annotate("", xy=end, xytext=start, arrowprops=line)

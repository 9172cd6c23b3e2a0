"""The map, drawn: how much a free and a contextual state gain over zero."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contextual_rnn.experiments.config.retrieval import STARTS
from contextual_rnn.experiments.stats.contrast import Contrast
from contextual_rnn.experiments.stats.wording import minus
from contextual_rnn.experiments.studies.gain_map import PAIRS, STATES, TIMINGS, UNITS, Cell, Map

# The gain that has the full colour, and the one up to which colours go by parts of a point.
FULL, FINE = 0.6, 0.005
COLOURS = "PuOr"
TICKS = (-FULL, -0.1, -0.01, 0, 0.01, 0.1, FULL)


def map_figure(gains: Map) -> Figure:
    """Median gain in final accuracy over zero, in points, a panel for each start, timing and state.

    Cells whose interval holds zero, or that have a single seed, are hatched. Raises ValueError for no
    gains.
    """
    if not gains:
        raise ValueError("gains: expected those of one state or more, got none")
    columns = [(start, timing) for start in STARTS for timing in TIMINGS]
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    grid = figure.subplots(len(STATES), len(columns), sharex=True, sharey=True)
    norm = SymLogNorm(FINE, vmin=-FULL, vmax=FULL)
    for row, state in zip(grid, STATES, strict=True):
        for axes, (start, timing) in zip(row, columns, strict=True):
            _panel(axes, gains.get(state, {}), start, timing, norm)
            if axes is row[0]:
                axes.set_ylabel(f"{state} over zero\nunits")
    for axes, (start, timing) in zip(grid[0], columns, strict=True):
        axes.set_title(f"{STARTS[start]},\n{timing}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("pairs")
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=grid, shrink=0.8, ticks=TICKS)
    bar.ax.set_yticklabels([minus(f"{100 * tick:+g}") if tick else "0" for tick in TICKS])
    bar.set_label("gain in accuracy, points; hatched: the interval holds 0")
    return figure


def _panel(axes: Axes, seen: Mapping[Cell, Contrast], start: str, timing: str, norm: SymLogNorm) -> None:
    places = [[seen.get(Cell(start, timing, units, pairs)) for pairs in PAIRS] for units in UNITS]
    gains = [[float("nan") if c is None or c.gain is None else c.gain.estimate for c in row] for row in places]
    axes.imshow(gains, cmap=COLOURS, norm=norm, origin="lower", aspect="auto")
    for y, row in enumerate(places):
        for x, cell in enumerate(row):
            if cell is None or cell.gain is None:
                axes.text(x, y, "not run", ha="center", va="center", fontsize=7, color="#777777")
                continue
            gain = cell.gain.estimate
            if cell.verdict in ("level", "open"):
                corner = (x - 0.5, y - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="///", edgecolor="#999999", lw=0))
            dark = abs(norm(gain) - 0.5) > 0.38
            text = axes.text(x, y, minus(f"{100 * gain:+.1f}"), ha="center", va="center", fontsize=9)
            text.set_color("white" if dark else "#222222")
    axes.set_xticks(range(len(PAIRS)), map(str, PAIRS))
    axes.set_yticks(range(len(UNITS)), map(str, UNITS))
    axes.tick_params(length=0)

"""The paper's figures 2, 5 and 6, the calibration and the map, drawn from data. Every function returns a Figure."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from contextual_rnn._pictures import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION, legend_above, styled
from contextual_rnn.experiments.config import in_order
from contextual_rnn.experiments.config.retrieval import STARTS
from contextual_rnn.experiments.report.data import Curve, Fans, Panel
from contextual_rnn.experiments.stats.contrast import Contrast
from contextual_rnn.experiments.stats.wording import minus
from contextual_rnn.experiments.studies.gain_map import PAIRS, STATES, TIMINGS, UNITS, Cell, Map

# A state has its colour everywhere.
COLOURS = {"zero": BLUE, "free": ORANGE, "context": VERMILION, "normal": GREEN}
LABELS = {"zero": "zero (2a)", "free": "free (2b)", "context": "context (2c)", "normal": "normal (Eq. 4)"}
WIDTH = 5.0  # inches, of a panel: on a phone its text can still be read
BAND = (0.1, 0.9)
MAP_COLOURS = "PuOr"  # full at the ends of the ticks, logarithmic beyond half a point
MAP_TICKS = (-0.6, -0.1, -0.01, 0, 0.01, 0.1, 0.6)
THIN_LINES = 24  # of a state; more seeds are a band
MORE_COLOURS = (PURPLE, SKY, "#F0E442", "#000000", "#999999")  # of states that are not the paper's
# Variants of one state in one picture.
KINDS = ((GREEN, "-"), (VERMILION, "--"), (BLUE, "-."), (ORANGE, ":"), (PURPLE, (0, (5, 1, 1, 1, 1, 1))))


def to_svg(figure: Figure, name: str = "figure", *, transparent: bool = True) -> str:
    """The figure as an SVG document with text kept as text: the same bytes for the same figure.

    Every id begins with `name`, so that one page can have figures of different names.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "contextual-rnn"}):
        figure.savefig(text, format="svg", metadata=nothing, transparent=transparent)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text.getvalue())


@styled()
def learning_curve(panel: Panel) -> Figure:
    """A metric over epochs, a colour for each state: the paper's figures 2 and 5 are such panels."""
    metric, curves = panel
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.add_subplot()
    _curves(axes, curves)
    axes.set_ylabel(metric.axis or metric.name.replace("_", " "))
    if metric.scale == "log":
        axes.set_yscale("log")
    elif metric.scale == "share":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif metric.scale == "negative":
        # The value before training is so low that all others would be at the top of the panel.
        lowest = min((value for curve in curves for epoch, value in curve.values.items() if epoch), default=-1.0)
        axes.set_ylim(bottom=1.08 * lowest, top=0.03 * -lowest)
    legend_above(figure, axes)
    return figure


def stacked(figure: Figure) -> Figure:
    """The figure with its panels below each other, so that they fit a phone."""
    grid = figure.add_gridspec(len(figure.axes), 1)
    for row, axes in enumerate(figure.axes):
        axes.set_subplotspec(grid[row])
    figure.set_size_inches(WIDTH, 3.0 * len(figure.axes))
    return figure


@styled()
def trajectory_fans(fans: Fans) -> Figure:
    """Figure 6: for each period the trajectories, their band, and the true curve.

    The band reaches from the 10th to the 90th percentile of the samples at every t; all values are in the units of x.
    Raises ValueError where there are no trajectories.
    """
    initial, paths, truths = fans
    if not paths:
        raise ValueError("paths: expected trajectories of one period or more, got none")
    columns = min(len(paths), 2 if len(paths) <= 4 else 3)
    rows = math.ceil(len(paths) / columns)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows))
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(len(paths))]
    for axes, (period, samples) in zip(panels, paths.items(), strict=True):
        _fan(axes, samples, truths[period])
        axes.set_title(f"T = {period:g}, x(0) = {initial:g}")
    legend_above(figure, panels[0])
    return figure


@styled()
def calibration_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Observed against nominal coverage, a colour a kind of loss: thin for each seed, bold for the median.

    `rows` are those of `calibration`. Raises ValueError where there are none.
    """
    if not rows:
        raise ValueError("rows: expected one calibration or more, got none")
    figure = Figure(figsize=(4.8, 4.2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":", label="as nominal")
    for row, (colour, dashes) in zip(rows, cycle(KINDS), strict=False):
        for observed in row["observed"]:
            axes.plot(row["levels"], observed, color=colour, lw=0.5, alpha=0.4)
        medians = [statistics.median(level) for level in zip(*row["observed"], strict=True)]
        axes.plot(row["levels"], medians, color=colour, ls=dashes, lw=1.8, label=row["label"])
    axes.set(xlabel="nominal coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend_above(figure, axes)
    return figure


@styled()
def map_figure(gains: Map, starts: Sequence[str] = tuple(STARTS)) -> Figure:
    """Median gain in final accuracy over zero, in points, a panel for each of `starts`, timing and state.

    Cells whose interval holds zero, or that have a single seed, are hatched. Raises ValueError for no gains.
    """
    if not gains:
        raise ValueError("gains: expected those of one state or more, got none")
    columns = [(start, timing) for start in starts for timing in TIMINGS]
    figure = Figure(figsize=(2.4 * len(columns), 5.2))
    grid = figure.subplots(len(STATES), len(columns), sharex=True, sharey=True)
    norm = SymLogNorm(0.005, vmin=-MAP_TICKS[-1], vmax=MAP_TICKS[-1])
    for row, state in zip(grid, STATES, strict=True):
        for axes, (start, timing) in zip(row, columns, strict=True):
            _map_panel(axes, gains.get(state, {}), start, timing, norm)
            if axes is row[0]:
                axes.set_ylabel(f"{state} over zero\nunits")
    for axes, (start, timing) in zip(grid[0], columns, strict=True):
        axes.set_title(f"{STARTS[start]},\n{timing}" if len(starts) > 1 else timing)
    for axes in grid[-1]:
        axes.set_xlabel("pairs")
    bar = figure.colorbar(ScalarMappable(norm, MAP_COLOURS), ax=grid, shrink=0.8, ticks=MAP_TICKS)
    bar.ax.set_yticklabels([minus(f"{100 * tick:+g}") if tick else "0" for tick in MAP_TICKS])
    bar.set_label("gain in accuracy, points; hatched: the interval holds 0")
    return figure


def _map_panel(axes: Axes, seen: Mapping[Cell, Contrast], start: str, timing: str, norm: SymLogNorm) -> None:
    places = [[seen.get(Cell(start, timing, units, pairs)) for pairs in PAIRS] for units in UNITS]
    gains = [[math.nan if c is None or c.gain is None else c.gain.estimate for c in row] for row in places]
    axes.imshow(gains, cmap=MAP_COLOURS, norm=norm, origin="lower", aspect="auto")
    for y, row in enumerate(places):
        for x, cell in enumerate(row):
            if cell is None or cell.gain is None:
                axes.text(x, y, "not run", ha="center", va="center", fontsize=7, color=FAINT)
                continue
            gain = cell.gain.estimate
            if cell.verdict in ("level", "open"):
                corner = (x - 0.5, y - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="///", edgecolor=FAINT, lw=0))
            red, green, blue, _ = matplotlib.colormaps[MAP_COLOURS](float(norm(gain)))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            text = axes.text(x, y, minus(f"{100 * gain:+.1f}"), ha="center", va="center", fontsize=9)
            text.set_color("white" if dark else INK)
    axes.set_xticks(range(len(PAIRS)), map(str, PAIRS))
    axes.set_yticks(range(len(UNITS)), map(str, UNITS))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _fan(axes: Axes, samples: Tensor, truth: Tensor) -> None:
    t, colour = range(samples.shape[1]), COLOURS["normal"]
    low, high = torch.quantile(samples, samples.new_tensor(BAND), dim=0).tolist()
    axes.fill_between(t, low, high, color=colour, alpha=0.25, lw=0, label="10th to 90th percentile")
    lines = axes.plot(t, samples.T.tolist(), color=colour, lw=0.8)
    lines[0].set_label(f"{len(samples)} sample{'s' * (len(samples) > 1)}")
    axes.plot(t, truth.tolist(), color=INK, ls="--", lw=1.6, label="true curve")
    axes.set(xlabel="t", ylabel="x(t)")


def _curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """A line for each run, thin where a state has several, and then in bold the median.

    Of many runs there is a band from the first to the last decile instead. Median and band are over the runs that
    converged where there are any, so that a run that has just begun does not shorten them, else over the unfinished
    ones. Runs that diverged are thin lines alone.
    """
    states = in_order(curve.state for curve in curves)
    colours = COLOURS | dict(zip((s for s in states if s not in COLOURS), cycle(MORE_COLOURS), strict=False))
    for state in states:
        drawn, colour = [curve for curve in curves if curve.state == state], colours[state]
        converged = [curve.values for curve in drawn if curve.status == "finished"]
        counted = converged or [curve.values for curve in drawn if curve.status == "unfinished"]
        if len(drawn) <= THIN_LINES and (len(drawn) > 1 or not counted):
            for curve in drawn:
                axes.plot(list(curve.values), list(curve.values.values()), color=colour, lw=0.7, alpha=0.6)
        if not counted:
            continue
        epochs = sorted(set.intersection(*map(set, counted)))
        values = numpy.array([[curve[epoch] for epoch in epochs] for curve in counted])
        medians = numpy.median(values, axis=0).tolist()
        if len(drawn) > THIN_LINES:
            axes.fill_between(epochs, *numpy.quantile(values, BAND, axis=0), color=colour, alpha=0.2, lw=0)
        axes.plot(epochs, medians, color=colour, lw=1.8, label=LABELS.get(state, state))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))

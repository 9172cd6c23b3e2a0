"""The paper's figures 2, 4, 5 and 6, drawn from our runs. Every function returns a matplotlib Figure."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.tasks.coverage import TWO_DEVIATIONS
from contextual_rnn.experiments.tasks.decay import linear_cosine_decay

# Okabe and Ito's palette, which colour-blind readers can distinguish; a state has its colour everywhere.
COLOURS = {"zero": "#0072B2", "free": "#E69F00", "context": "#D55E00", "normal": "#009E73"}
LABELS = {"zero": "zero (2a)", "free": "free (2b)", "context": "context (2c)", "normal": "normal (Eq. 4)"}
INK = "#333333"
BAND = (0.1, 0.9)
THIN_LINES = 24  # of a state; more seeds are a band
# Variants of one state in one picture.
KINDS = (("#009E73", "-"), ("#D55E00", "--"), ("#0072B2", "-."), ("#E69F00", ":"), ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))))


class End(NamedTuple):
    """The end point of a line, and its name."""

    epoch: float
    value: float
    label: str
    colour: str


def to_svg(figure: Figure, name: str = "figure", *, transparent: bool = True) -> str:
    """The figure as an SVG document with text kept as text: the same bytes for the same figure.

    Every id begins with `name`, so that one page can have figures of different names.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "contextual-rnn"}):
        figure.savefig(text, format="svg", metadata=nothing, transparent=transparent)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text.getvalue())


def retrieval_curves(runs: Sequence[Run]) -> Figure:
    """Figure 2: validation log-likelihood (nats a sequence) and accuracy over epochs, a colour a state.

    `runs` should differ in state and seed alone. Raises ValueError where they are none, or of another task.
    """
    _check(runs, "retrieval")
    figure, (left, right) = _panels(2, width=9.6, height=3.4)
    left_ends = _curves(left, runs, "validation_log_likelihood")
    left.set_ylabel("validation log-likelihood (nats)")
    # The value before training is so low that all others would be at the top of the panel.
    trained = [value for run in runs for epoch, value in _curve(run, "validation_log_likelihood").items() if epoch]
    left.set_ylim(bottom=1.08 * min(trained, default=-1.0), top=0.03 * -min(trained, default=-1.0))
    right_ends = _curves(right, runs, "validation_accuracy")
    right.set_ylabel("validation accuracy")
    right.set_ylim(0, 1.02)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    _label_ends(left, left_ends)
    _label_ends(right, right_ends)
    return figure


def decay_sequence() -> Figure:
    """Figure 4: the decay task's function for T = 4, t_f = 100, x(0) = 4, alpha = 0, beta = 0.001."""
    figure, (axes,) = _panels(1, width=4.8, height=3.0)
    curve = linear_cosine_decay(*torch.full((2, 1), 4.0, device="cpu"), points=101, total_time=100.0)[0]
    axes.plot(curve.tolist(), color=INK)
    axes.set(xlabel="t", ylabel="x(t)")
    return figure


def decay_curves(runs: Sequence[Run]) -> Figure:
    """Figure 5: validation squared error of the scaled step over epochs, on a logarithmic axis.

    `runs` should differ in state and seed alone. Raises ValueError where they are none, or of another task.
    """
    _check(runs, "decay")
    figure, (axes,) = _panels(1, width=5.6, height=3.2)
    ends = _curves(axes, runs, "validation_squared_error")
    axes.set_yscale("log")
    axes.set_ylabel("validation squared error")
    _label_ends(axes, ends)
    return figure


def trajectory_fans(paths: Mapping[float, Tensor], truths: Mapping[float, Tensor], initial: float) -> Figure:
    """Figure 6: for each period the trajectories (samples, points), their band, and the true curve (points,).

    The band reaches from the 10th to the 90th percentile of the samples at every t; all values are in the units of x.
    Raises ValueError where `paths` is empty or `truths` lacks one of its periods.
    """
    if not paths:
        raise ValueError("paths: expected trajectories of one period or more, got none")
    if missing := sorted(set(paths) - set(truths)):
        raise ValueError(f"truths: expected a true curve for each period, got none for {missing}")
    columns = min(len(paths), 2 if len(paths) <= 4 else 3)
    figure, panels = _panels(len(paths), width=4.4 * columns, height=3.2, columns=columns)
    for axes, (period, samples) in zip(panels, paths.items(), strict=True):
        _fan(axes, samples, truths[period])
        axes.set_title(f"T = {period:g}, x(0) = {initial:g}", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def calibration_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Observed against nominal coverage, a colour a kind of loss: thin for each seed, bold for the median.

    `rows` are those of `calibration`. Raises ValueError where there are none.
    """
    if not rows:
        raise ValueError("rows: expected one calibration or more, got none")
    figure, (axes,) = _panels(1, width=4.8, height=4.2)
    axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":", label="as nominal")
    for row, (colour, dashes) in zip(rows, cycle(KINDS), strict=False):
        for observed in row["observed"]:
            axes.plot(row["levels"], observed, color=colour, lw=0.5, alpha=0.4)
        medians = [statistics.median(level) for level in zip(*row["observed"], strict=True)]
        axes.plot(row["levels"], medians, color=colour, ls=dashes, lw=1.8, label=row["label"])
    axes.set(xlabel="nominal coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def spread_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Over epochs: mean sigma (solid to its smallest, faint), the samples' standard deviation in x, coverage.

    `rows` are those of `calibration`, medians over seeds. Raises ValueError where there are none.
    """
    if not rows:
        raise ValueError("rows: expected one calibration or more, got none")
    figure, panels = _panels(3, width=10.2, height=3.4, columns=3)
    titles = (
        "sigma of h(0), mean and smallest",
        "standard deviation of x(t) over samples",
        "truth within two deviations",
    )
    names = ("mean_scale", "trajectory_spread", "coverage_two_deviations")
    for axes, title, name in zip(panels, titles, names, strict=True):
        for row, (colour, dashes) in zip(rows, cycle(KINDS), strict=False):
            curve = row["epochs"].get(name, [])
            axes.plot(range(len(curve)), curve, color=colour, ls=dashes, lw=1.6, label=row["label"])
            if name == "mean_scale":
                smallest = row["epochs"].get("smallest_scale", [])
                axes.plot(range(len(smallest)), smallest, color=colour, ls=dashes, lw=0.7, alpha=0.6)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
    panels[2].axhline(TWO_DEVIATIONS, color=INK, lw=0.8, ls=":")
    panels[2].set_ylim(0, 1)
    panels[2].yaxis.set_major_formatter(PercentFormatter(1.0))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False, fontsize=9)
    return figure


def _fan(axes: Axes, samples: Tensor, truth: Tensor) -> None:
    t, colour = range(samples.shape[1]), COLOURS["normal"]
    low, high = torch.quantile(samples, samples.new_tensor(BAND), dim=0).tolist()
    axes.fill_between(t, low, high, color=colour, alpha=0.25, lw=0, label="10th to 90th percentile")
    lines = axes.plot(t, samples.T.tolist(), color=colour, lw=0.8)
    lines[0].set_label(f"{len(samples)} sample{'s' * (len(samples) > 1)}")
    axes.plot(t, truth.tolist(), color=INK, ls="--", lw=1.6, label="true curve")
    axes.set(xlabel="t", ylabel="x(t)")


def _check(runs: Sequence[Run], task: str) -> None:
    if not runs:
        raise ValueError("runs: expected one run or more, got none")
    if others := sorted({run.task for run in runs} - {task}):
        raise ValueError(f"runs: expected runs of {task}, got some of {', '.join(others)}")


def _panels(count: int, *, width: float, height: float, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """`count` axes in rows of `columns`; the figure's width and the height of one row are in inches."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#DDDDDD", lw=0.6)
    return figure, panels


def _curves(axes: Axes, runs: Sequence[Run], metric: str) -> list[End]:
    """A line for each run, thin where a state has several, and then in bold the median; the ends of the bold lines.

    Of many runs there is a band from the first to the last decile instead. Median and band are over the runs that
    converged where there are any, so that a run that has just begun does not shorten them, else over the unfinished
    ones. Runs that diverged are thin lines alone.
    """
    ends = []
    for state, colour in COLOURS.items():
        drawn = [(run, curve) for run in runs if run.config.state == state and (curve := _curve(run, metric))]
        converged = [curve for run, curve in drawn if run.converged]
        curves = converged or [curve for run, curve in drawn if run.result is None]
        if len(drawn) <= THIN_LINES and (len(drawn) > 1 or not curves):
            for _, curve in drawn:
                axes.plot(list(curve), list(curve.values()), color=colour, lw=0.7, alpha=0.6)
        if not curves:
            continue
        epochs = sorted(set.intersection(*map(set, curves)))
        values = numpy.array([[curve[epoch] for epoch in epochs] for curve in curves])
        medians = numpy.median(values, axis=0).tolist()
        if len(drawn) > THIN_LINES:
            axes.fill_between(epochs, *numpy.quantile(values, BAND, axis=0), color=colour, alpha=0.2, lw=0)
        axes.plot(epochs, medians, color=colour, lw=1.8)
        ends.append(End(epochs[-1], medians[-1], LABELS[state], colour))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    return ends


def _curve(run: Run, metric: str) -> dict[float, float]:
    """Epoch to value; epochs without the metric, or where it is not finite, are left out."""
    return {line["epoch"]: line[metric] for line in run.metrics if math.isfinite(line.get(metric, math.nan))}


def _label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Name every line beside its end; names that would overlap are moved apart, with a dotted line to each.

    Must come last: it reads the final limits of the axes.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    limits = axes.get_xlim(), axes.get_ylim()
    heights = {end: float(to_axes.transform((end.epoch, end.value))[1]) for end in ends}
    upwards = sorted(ends, key=heights.__getitem__)
    for end, height in zip(upwards, _spread([heights[end] for end in upwards]), strict=True):
        axes.annotate(
            end.label,
            xy=(end.epoch, end.value),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": end.colour, "ls": ":", "lw": 1.2, "shrinkA": 0, "shrinkB": 0},
        )
    axes.set(xlim=limits[0], ylim=limits[1])


def _spread(heights: Sequence[float], gap: float = 0.09) -> list[float]:
    """Ascending heights, in parts of the axes, moved up to be at least `gap` apart, and down to end at 1."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    top = 1 + gap
    for index in reversed(range(len(placed))):
        placed[index] = top = min(placed[index], top - gap)
    return placed

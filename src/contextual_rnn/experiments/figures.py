"""The paper's figures 2, 4, 5 and 6, drawn from our runs. Every function returns a matplotlib Figure."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Mapping, Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from contextual_rnn.experiments.linear_cosine_decay import linear_cosine_decay
from contextual_rnn.experiments.results import Run

# Okabe and Ito's palette, told apart by colour-blind readers; a state has its colour everywhere.
COLOURS = {"zero": "#0072B2", "free": "#E69F00", "context": "#D55E00", "normal": "#009E73"}
LABELS = {"zero": "zero (2a)", "free": "free (2b)", "context": "context (2c)", "normal": "normal (Eq. 4)"}
TRUTH = "#555555"


def to_svg(figure: Figure, name: str = "figure") -> str:
    """The figure as SVG with text kept as text: the same bytes for the same figure.

    Every id begins with `name`, so that figures of different names can stand in one page.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text.getvalue())


def retrieval_curves(runs: Sequence[Run]) -> Figure:
    """Figure 2: validation log-likelihood (nats a sequence) and accuracy over epochs; runs differ in state and seed."""
    figure, (left, right) = _axes(2, width=9.0, height=3.4)
    _curves(left, runs, "validation_log_likelihood")
    _curves(right, runs, "validation_accuracy")
    left.set_ylabel("validation log-likelihood (nats)")
    right.set_ylabel("validation accuracy")
    right.set_ylim(0, 1.02)
    right.legend(frameon=False, loc="lower right")
    return figure


def decay_sequence() -> Figure:
    """Figure 4: the decay task's function for T = 4, t_f = 100, x(0) = 4, alpha = 0, beta = 0.001."""
    figure, (axes,) = _axes(1, width=4.4, height=3.0)
    curve = linear_cosine_decay(torch.tensor([4.0]), torch.tensor([4.0]), points=101, total_time=100.0)[0]
    axes.plot(curve.tolist(), color=TRUTH)
    axes.set_xlabel("t")
    axes.set_ylabel("x(t)")
    axes.set_title("linear cosine decay, T = 4", fontsize=10)
    return figure


def decay_curves(runs: Sequence[Run]) -> Figure:
    """Figure 5: validation squared error of the scaled step over epochs, on a logarithmic axis."""
    figure, (axes,) = _axes(1, width=4.4, height=3.0)
    _curves(axes, runs, "validation_squared_error")
    axes.set_yscale("log")
    axes.set_ylabel("validation squared error")
    axes.legend(frameon=False)
    return figure


def trajectory_fans(paths: Mapping[float, Tensor], truths: Mapping[float, Tensor], initial: float) -> Figure:
    """Figure 6: for each period the sampled trajectories (samples, points), their band, and the true curve (points,).

    The band reaches from the 10th to the 90th percentile of the samples at every t.
    """
    figure, panels = _axes(len(paths), width=4.4 * min(len(paths), 2), height=3.2 * ((len(paths) + 1) // 2))
    for axes, (period, samples) in zip(panels, paths.items(), strict=True):
        t = range(samples.shape[1])
        low, high = torch.quantile(samples, torch.tensor([0.1, 0.9]), dim=0)
        axes.fill_between(t, low.tolist(), high.tolist(), color=COLOURS["normal"], alpha=0.25, lw=0, label="10 to 90 %")
        for index, sample in enumerate(samples.tolist()):
            label = f"{len(samples)} samples" if index == 0 else None
            axes.plot(t, sample, color=COLOURS["normal"], lw=0.7, label=label)
        axes.plot(t, truths[period].tolist(), color=TRUTH, ls="--", lw=1.6, label="truth")
        axes.set_title(f"T = {period:g}, x(0) = {initial:g}", fontsize=10)
        axes.set_xlabel("t")
        axes.set_ylabel("x(t)")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _axes(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    rows = (count + 1) // 2
    axes = [figure.add_subplot(rows, min(count, 2), index + 1) for index in range(count)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    return figure, axes


def _curves(axes: Axes, runs: Sequence[Run], metric: str) -> None:
    """A line a run and, of several seeds, the median in bold; epochs that a run lacks are left out."""
    for state, colour in COLOURS.items():
        curves = [
            {line["epoch"]: line[metric] for line in run.metrics if metric in line}
            for run in runs
            if run.config.state == state
        ]
        if not any(curves):
            continue
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=colour, lw=0.8 if len(curves) > 1 else 1.8, alpha=0.7)
        common = sorted(set.intersection(*map(set, curves)))
        label = LABELS[state] if len(curves) == 1 else f"{LABELS[state]}, median of {len(curves)} seeds"
        medians = [statistics.median(curve[epoch] for curve in curves) for epoch in common]
        axes.plot(common, medians, color=colour, lw=1.8, label=label)
    axes.set_xlabel("epoch")

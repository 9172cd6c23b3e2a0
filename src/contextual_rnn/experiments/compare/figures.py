"""The two figures of a comparison: what each arm gains, and its error by step from the initial state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from contextual_rnn._pictures import INK, legend_above, styled
from contextual_rnn.experiments.report.figures import COLOURS, MORE_COLOURS, WIDTH
from contextual_rnn.experiments.stats.intervals import Interval

SIZE = (WIDTH, 3.4)


@styled()
def gains_figure(gains: Mapping[str, Interval], chosen: str) -> Figure:
    """The gain of each arm over the zero state with its interval, a row an arm; that of `chosen` in colour."""
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, lw=0.8)
    for row, (name, gain) in enumerate(gains.items()):
        colour = COLOURS["context"] if name == chosen else INK
        axes.plot([gain.low, gain.high], [row, row], color=colour, lw=1.8, solid_capstyle="butt")
        axes.plot([gain.estimate], [row], "o", color=colour, ms=5)
    axes.set_yticks(range(len(gains)), list(gains))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("gain over the zero state")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    return figure


@styled()
def steps_figure(errors: Mapping[str, Sequence[float]], label: str) -> Figure:
    """The mean test error of each arm by step from the initial state."""
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    others = cycle(MORE_COLOURS)
    for name, values in errors.items():
        colour = COLOURS.get(name) or next(others)
        steps = range(1, len(values) + 1)
        axes.plot(steps, list(values), color=colour, lw=1.6, ls="-" if name in COLOURS else "--", label=name)
    axes.set_xlabel("step from the initial state")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    legend_above(figure, axes)
    return figure

"""The map: how much a free and a contextual state gain over zero, over units, pairs, timing and start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import Contrast, contrast
from contextual_rnn.experiments.stats.measures import MEASURES, Measure
from contextual_rnn.experiments.stats.wording import SHORT, STARTS, interval, minus

UNITS, PAIRS = (20, 50, 100), (2, 4, 8)
TIMINGS = ("wenke2019", "ba2016")
STATES = ("context", "free")
ACCURACY, TO_95, TO_99 = MEASURES["retrieval"]
# The gain that has the full colour, and the one up to which colours go by parts of a point.
FULL, FINE = 0.6, 0.005
COLOURS = "PuOr"
TICKS = (-FULL, -0.1, -0.01, 0, 0.01, 0.1, FULL)


class Cell(NamedTuple):
    """A place on the map."""

    start: str
    timing: str
    units: int
    pairs: int

    @classmethod
    def of(cls, run: Run) -> Cell:
        config = run.config
        assert isinstance(config, RetrievalConfig)
        return cls(config.start, config.timing, config.units, config.pairs)


def contrasts(runs: Sequence[Run], state: str, measure: Measure = ACCURACY) -> dict[Cell, Contrast]:
    """`state` against zero in every cell where both have a finished seed."""
    cells: dict[Cell, tuple[list[Run], list[Run]]] = {}
    for run in runs:
        if run.config.state in (state, "zero"):
            cells.setdefault(Cell.of(run), ([], []))[run.config.state == "zero"].append(run)
    compared = {cell: contrast(*sides, measure) for cell, sides in sorted(cells.items(), key=_place)}
    return {cell: seen for cell, seen in compared.items() if seen is not None}


def _place(item: tuple[Cell, Any]) -> tuple[object, ...]:
    cell = item[0]
    return list(STARTS).index(cell.start), TIMINGS.index(cell.timing), cell.units, cell.pairs


def map_table(runs: Sequence[Run]) -> dict[str, Any]:
    """Every cell and state: final accuracy and its gain, epochs to 95 and 99 %, with their intervals."""
    header = ["start", "timing", "units", "pairs", "state", "seeds", "accuracy", "gain in points"]
    header += ["epochs to 95 %", "epochs to 99 %"]
    rows = []
    for state in STATES:
        by_measure = {measure.name: contrasts(runs, state, measure) for measure in (ACCURACY, TO_95, TO_99)}
        for cell, seen in by_measure[ACCURACY.name].items():
            epochs = [_epochs(by_measure[measure.name][cell]) for measure in (TO_95, TO_99)]
            assert seen.gain is not None
            gain = interval(seen.gain, "points")
            rows.append(
                [
                    SHORT[cell.start],
                    *map(str, cell[1:]),
                    state,
                    str(len(seen.seeds)),
                    interval(seen.ours, "share"),
                    gain,
                    *epochs,
                ]
            )
    return {"title": "Every cell of the map", "header": header, "texts": 5, "rows": rows}


def _epochs(seen: Contrast) -> str:
    return f"{interval(seen.ours, 'epochs')}, zero {interval(seen.theirs, 'epochs')}"


def map_figure(runs: Sequence[Run]) -> Figure:
    """Median gain in final accuracy over zero, in points, a panel for each start, timing and state.

    Cells whose interval holds zero, or that have a single seed, are hatched. Raises ValueError where no cell has a
    finished seed of zero and of another state.
    """
    by_state = {state: contrasts(runs, state) for state in STATES}
    if not any(by_state.values()):
        raise ValueError("runs: expected finished runs of zero and another state, got none")
    columns = [(start, timing) for start in STARTS for timing in TIMINGS]
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    grid = figure.subplots(len(STATES), len(columns), sharex=True, sharey=True)
    norm = SymLogNorm(FINE, vmin=-FULL, vmax=FULL)
    for row, state in zip(grid, STATES, strict=True):
        for axes, (start, timing) in zip(row, columns, strict=True):
            _panel(axes, by_state[state], start, timing, norm)
            if axes is row[0]:
                axes.set_ylabel(f"{state} over zero\nunits")
    for axes, (start, timing) in zip(grid[0], columns, strict=True):
        axes.set_title(f"{STARTS[start]},\n{timing}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("pairs")
    bar = figure.colorbar(
        ScalarMappable(norm, COLOURS), ax=grid, shrink=0.8, ticks=[-0.6, -0.1, -0.01, 0, 0.01, 0.1, 0.6]
    )
    bar.ax.set_yticklabels(
        [minus(f"{100 * tick:+g}") if tick else "0" for tick in (-0.6, -0.1, -0.01, 0, 0.01, 0.1, 0.6)]
    )
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

"""Cost against T, H and B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.size import COMPILED, EAGER, FUSED, JAX, OURS, PLAIN, TRAIN, Cell
from contextual_rnn._pictures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, styled

AXES = {"steps": "T, steps", "units": "H, units", "batch": "B, sequences"}
COLOURS = {
    TRAIN: BLUE, OURS: BLUE, FUSED: PURPLE, PLAIN: SKY, EAGER: VERMILION, COMPILED: ORANGE, JAX: GREEN,
}  # fmt: skip


@styled()
def draw(cells: Sequence[Cell]) -> dict[str, Figure]:
    """A figure for each thing that was timed: a row for each number of threads, a column for T, H and B."""
    figures: dict[str, Figure] = {}
    for what in dict.fromkeys(cell.what for cell in cells):
        points = [cell for cell in cells if cell.what == what and cell.size.initial == "zero"]
        threads = sorted({cell.size.threads for cell in points})
        if not points or not any(_along(points, count, axis) for count in threads for axis in AXES):
            continue
        figure = Figure(figsize=(11, 3.2 * len(threads)))
        panels = figure.subplots(len(threads), len(AXES), squeeze=False, sharey=True)
        for row, count in zip(panels, threads, strict=True):
            for axes, axis in zip(row, AXES, strict=True):
                _panel(axes, _along(points, count, axis), axis)
            row[0].set_ylabel(f"{what}, microseconds\n{count} thread{'s' * (count > 1)}")
        named = {label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels())}  # noqa: B905
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=len(named))
        figures[what.replace(" ", "_")] = figure
    return figures


def _along(cells: Sequence[Cell], threads: int, axis: str) -> list[Cell]:
    """The largest set of cells that differ in `axis` alone; of one size the first, which had all peers."""
    lines: dict[Any, dict[int, Cell]] = {}
    for cell in cells:
        size = cell.size
        if size.threads == threads:
            rest = tuple(getattr(size, other) for other in AXES if other != axis)
            lines.setdefault(rest, {}).setdefault(getattr(size, axis), cell)
    longest = max(lines.values(), key=len, default={})
    return [longest[value] for value in sorted(longest)] if len(longest) > 1 else []


def _panel(axes: Any, cells: Sequence[Cell], axis: str) -> None:
    values = [getattr(cell.size, axis) for cell in cells]
    for name, colour in COLOURS.items():
        known = [
            (value, spreads[name])
            for value, cell in zip(values, cells, strict=True)
            if name in (spreads := cell.summary()["microseconds"])
        ]
        if not known:
            continue
        at = [value for value, _ in known]
        axes.plot(at, [spread["median"] for _, spread in known], marker="o", ms=4, color=colour, label=name)
        quartiles = ([spread[f"{side} quartile"] for _, spread in known] for side in ("lower", "upper"))
        axes.fill_between(at, *quartiles, color=colour, alpha=0.2, lw=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.set_xlabel(AXES[axis])

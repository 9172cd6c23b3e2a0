"""The map: how much a free and a contextual state gain over zero, over units, pairs, timing and start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from contextual_rnn.experiments.config import Measure
from contextual_rnn.experiments.config.retrieval import ACCURACY, SHORT_STARTS, STARTS, TO_95, TO_99
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import Contrast, contrast
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.stats.wording import interval

UNITS, PAIRS = (20, 50, 100), (2, 4, 8)
TIMINGS = ("wenke2019", "ba2016")
STATES = ("context", "free")

Map = Mapping[str, Mapping["Cell", Contrast]]  # by state


class Cell(NamedTuple):
    """A place on the map."""

    start: str
    timing: str
    units: int
    pairs: int


def contrasts(runs: Sequence[Run], state: str, measure: Measure = ACCURACY) -> dict[Cell, Contrast]:
    """`state` against zero in every cell where both have a finished seed."""
    cells: dict[Cell, tuple[list[Run], list[Run]]] = {}
    for run in runs:
        config: Any = run.config
        if config.state in (state, "zero"):
            cell = Cell(config.start, config.timing, config.units, config.pairs)
            cells.setdefault(cell, ([], []))[config.state == "zero"].append(run)
    compared = {cell: contrast(*sides, measure) for cell, sides in sorted(cells.items(), key=_place)}
    return {cell: seen for cell, seen in compared.items() if seen is not None}


def _place(item: tuple[Cell, Any]) -> tuple[object, ...]:
    cell = item[0]
    return list(STARTS).index(cell.start), TIMINGS.index(cell.timing), cell.units, cell.pairs


def gain_map(runs: Sequence[Run]) -> Map:
    """The gains in final accuracy of every state that has some."""
    return {state: cells for state in STATES if (cells := contrasts(runs, state))}


def map_table(runs: Sequence[Run]) -> Table | None:
    """Every cell and state: final accuracy and its gain, epochs to 95 and 99 %, with intervals; None of no cell."""
    header = ["start", "timing", "units", "pairs", "state", "seeds", "accuracy", "gain in points"]
    header += ["epochs to 95 %", "epochs to 99 %"]
    rows: list[list[str]] = []
    for state in STATES:
        by_measure = {measure.name: contrasts(runs, state, measure) for measure in (ACCURACY, TO_95, TO_99)}
        for cell, seen in by_measure[ACCURACY.name].items():
            epochs = [by_measure[measure.name][cell] for measure in (TO_95, TO_99)]
            words = [f"{interval(each.ours, 'epochs')}, zero {interval(each.theirs, 'epochs')}" for each in epochs]
            place = [SHORT_STARTS[cell.start], *map(str, cell[1:]), state, str(len(seen.seeds))]
            rows.append([*place, interval(seen.ours, "share"), interval(seen.gain, "points"), *words])
    return Table("Every cell of the map", header, rows, texts=5) if rows else None

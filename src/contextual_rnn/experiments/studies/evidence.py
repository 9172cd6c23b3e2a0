"""What the runs of results/evidence.sh say: tables and the map for the report, and facts for the prose of the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from contextual_rnn.experiments.config import Measure
from contextual_rnn.experiments.config.decay import FREE_RUNNING, SQUARED_ERROR
from contextual_rnn.experiments.config.retrieval import ACCURACY, STARTS, TO_95
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import Contrast, contrast
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.studies import catalogue, start_ablations
from contextual_rnn.experiments.studies.ba2016_table_1 import table_1
from contextual_rnn.experiments.studies.calibration import verdicts_of
from contextual_rnn.experiments.studies.catalogue import runs_of
from contextual_rnn.experiments.studies.gain_map import Map, gain_map, map_table


class Evidence(NamedTuple):
    """Gains by state and cell of the map, and tables; None and empty where nothing was run."""

    gains: Map
    map_table: Table | None
    explanations: list[Table]
    table_1: Table | None


def evidence_of(runs: Sequence[Run]) -> Evidence:
    """The evidence in `runs`."""
    mapped, short = runs_of(runs, catalogue.MAP), _short(runs)
    tables = start_ablations.ingredient_table(short), start_ablations.control_table(short)
    first = table_1(runs_of(runs, catalogue.TABLE_1))
    return Evidence(gain_map(mapped), map_table(mapped), [table for table in tables if table], first)


class Scale(NamedTuple):
    """A study at the paper's scale: its settings, and final accuracy and epochs to 95 % of each state beside zero."""

    config: Any
    epochs: int
    states: dict[str, list[Contrast]]


def facts_of(runs: Sequence[Run], calibrated: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What the prose of docs/evidence.md needs, by name, from `runs` and the rows of `calibration`.

    Contrasts are of several seeds, for a single one allows no verdict: `map` has them by start and state,
    `ingredients` and `controls` by start and name.
    """
    short = _short(runs)
    gains: dict[str, dict[str, list[Contrast]]] = {start: {} for start in STARTS}
    for state, cells in gain_map(runs_of(runs, catalogue.MAP)).items():
        for cell, each in _of_several_seeds(cells).items():
            gains[cell.start].setdefault(state, []).append(each)
    return {
        "cells": [each for states in gains.values() for contrasts in states.values() for each in contrasts],
        "scales": {name: scale for name in catalogue.PAPER_SCALE if (scale := _scale(runs_of(runs, name)))},
        "map": gains,
        "ingredients": {
            start: _of_several_seeds(start_ablations.ingredient_contrasts(short, start)) for start in STARTS
        },
        "controls": {start: _of_several_seeds(start_ablations.control_contrasts(short, start)) for start in STARTS},
        "decay": _beside_zero(runs_of(runs, catalogue.DECAY), ("normal", "context"), SQUARED_ERROR, FREE_RUNNING),
        "calibration": verdicts_of(calibrated),
    }


def _scale(runs: Sequence[Run]) -> Scale | None:
    states = _beside_zero(runs, ("context", "free"), ACCURACY, TO_95)
    return Scale(runs[0].config, max(run.config.epochs for run in runs if run.converged), states) if states else None


def _beside_zero(runs: Sequence[Run], states: Sequence[str], *measures: Measure) -> dict[str, list[Contrast]]:
    """Each state against zero in every measure; without those that share less than two seeds with it."""
    by_state = {state: [run for run in runs if run.config.state == state] for state in (*states, "zero")}
    seen = {state: [contrast(by_state[state], by_state["zero"], measure) for measure in measures] for state in states}
    complete = {state: [each for each in contrasts if each is not None] for state, contrasts in seen.items()}
    return {
        state: contrasts
        for state, contrasts in complete.items()
        if len(contrasts) == len(measures) and contrasts[0].verdict != "open"
    }


def _of_several_seeds(seen: Mapping[Any, Contrast]) -> dict[Any, Contrast]:
    return {name: each for name, each in seen.items() if each.verdict != "open"}


def _short(runs: Sequence[Run]) -> start_ablations.Choices:
    """The runs of 30 epochs, in which ingredients and controls are compared."""
    return start_ablations.by_choice(runs_of(runs, catalogue.MAP, catalogue.INGREDIENTS, catalogue.CONTROLS))

"""The tables and the map of the studies that results/evidence.sh trains, of those that have runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.studies.ba2016_table_1 import table_1
from contextual_rnn.experiments.studies.catalogue import CONTROLS, INGREDIENTS, MAP, TABLE_1, runs_of
from contextual_rnn.experiments.studies.gain_map import Map, gain_map, map_table
from contextual_rnn.experiments.studies.start_ablations import by_choice, control_table, ingredient_table


class Evidence(NamedTuple):
    """Gains by state and cell of the map, and tables; None and empty where nothing was run."""

    gains: Map
    map_table: Table | None
    explanations: list[Table]
    table_1: Table | None


def evidence_of(runs: Sequence[Run]) -> Evidence:
    """The evidence in `runs`."""
    mapped, short = runs_of(runs, MAP), by_choice(runs_of(runs, MAP, INGREDIENTS, CONTROLS))
    explanations = [table for table in (ingredient_table(short), control_table(short)) if table]
    return Evidence(gain_map(mapped), map_table(mapped), explanations, table_1(runs_of(runs, TABLE_1)))

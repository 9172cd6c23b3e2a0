"""The table of Ba et al. (2016), who introduced associative retrieval: the error of networks of several sizes.

Their numbers are left out, because the original could not be opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contextual_rnn.experiments.config import COMPUTED_BY, Measure, chosen, config_to_dict, final
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.intervals import Interval, median_interval
from contextual_rnn.experiments.stats.measures import values_by_seed
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.stats.wording import interval, option_text, spread, words

UNITS = (20, 50, 100)
TEST_ACCURACY = Measure("test_accuracy", final("test_accuracy"), more_is_better=True, share=True)
NETWORKS = {"fast_weights": "fast weights", "lstm": "LSTM"}


def errors(runs: Sequence[Run]) -> dict[tuple[str, str], dict[int, tuple[Interval, int]]]:
    """Median test accuracy and the number of seeds, by network and setting, then by units; from finished runs."""
    alike: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        config: Any = run.config
        network = NETWORKS.get(getattr(config, "network", ""))
        if network and config.state == "zero" and config.units in UNITS:
            alike.setdefault((network, _setting(run), config.units), []).append(run)
    medians: dict[tuple[str, str], dict[int, tuple[Interval, int]]] = {}
    for network, setting, units in sorted(alike):
        if values := list(values_by_seed(alike[network, setting, units], TEST_ACCURACY).values()):
            medians.setdefault((network, setting), {})[units] = median_interval(values), len(values)
    return medians


def table_1(runs: Sequence[Run]) -> Table | None:
    """Test errors by network, setting and units; None where there are no runs."""
    rows: list[list[str]] = []
    for (network, setting), by_units in errors(runs).items():
        cells = [interval(by_units[units][0], "error") if units in by_units else "-" for units in UNITS]
        rows.append([network, setting, spread(count for _, count in by_units.values()), *cells])
    header = ["network", "setting", "seeds", *(f"{units} units" for units in UNITS)]
    return Table("Error on test sequences, 4 pairs", header, rows, texts=2) if rows else None


def _setting(run: Run) -> str:
    names = {"epochs", *chosen(run.config, "state", "network", "units", "seed", *COMPUTED_BY)}
    options = config_to_dict(run.config).items()
    return ", ".join(f"{words(name)} {option_text(value)}" for name, value in options if name in names)

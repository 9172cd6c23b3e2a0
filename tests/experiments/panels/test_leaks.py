"""Columns that give the target away are warnings, and others are none."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tests.experiments.panels.tables import COLUMNS, flows

from contextual_rnn.experiments.panels import read_panel

SERIES, STEPS = 12, 6
NUMBERS = np.random.default_rng(1).normal(size=(SERIES, STEPS))
LABELS = np.random.default_rng(2).permutation(["a", "b", "c"] * 4)
ORDERED = np.random.default_rng(3).normal(size=SERIES)

WORDS = np.random.default_rng(5).choice(["low", "high", "flood"], SERIES * STEPS)


def each(values) -> list:
    return np.repeat(np.asarray(values), STEPS).tolist()


def warnings_of(**columns) -> list[str]:
    table = flows(SERIES, STEPS, **{"discharge": NUMBERS.ravel(), **columns})
    return [warning for warning in read_panel(table, COLUMNS).summary["warnings"] if "leak" in warning]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rain": NUMBERS.ravel() * 2 + 1}, "rain: possible leak, at each step"),
        ({"area": each(NUMBERS[:, 0] ** 3)}, "area: .*the first discharge"),
        ({"area": each(-NUMBERS[:, -1])}, "area: .*the last discharge"),
        ({"area": each(NUMBERS.mean(1))}, "area: .*the mean discharge"),
        ({"area": each(np.exp(NUMBERS.max(1)))}, "area: .*the largest discharge"),
        ({"discharge": each(LABELS), "soil": each(np.char.upper(LABELS))}, "soil: .*always have the same discharge"),
        (
            {"discharge": each(LABELS), "area": each([ord(label) / 3 for label in LABELS])},
            "area: .*always have the same",
        ),
        (
            {"discharge": WORDS, "weather": np.char.upper(WORDS)},
            "weather: .*steps with the same value always have the same",
        ),
        ({"discharge": each(ORDERED), "area": each(np.exp(ORDERED))}, "area: .*in the same order as discharge"),
    ],
)
def test_leaks_are_seen(columns, message):
    assert [warning for warning in warnings_of(**columns) if re.search(message, warning)]


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"rain": NUMBERS.ravel() + np.random.default_rng(4).normal(size=NUMBERS.size)},
        {"area": each(NUMBERS.mean(1) + np.random.default_rng(4).normal(size=SERIES))},
        {"discharge": each(LABELS)},
        {"discharge": WORDS},
        {"discharge": each(ORDERED)},
    ],
)
def test_what_is_no_leak_is_no_warning(columns):
    assert warnings_of(**columns) == []


def test_a_context_that_names_its_series_is_a_warning():
    table = flows(SERIES, STEPS, soil=each([f"s{series}" for series in range(SERIES)]))
    assert any(
        w.startswith("soil: every series has its own value") for w in read_panel(table, COLUMNS).summary["warnings"]
    )

"""The intervals of the examples hold what they say, and those in results/ are made by the same function."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = [path for path in sorted((ROOT / "results").glob("*.json")) if '"interval"' in path.read_text()]


@pytest.fixture
def over_seeds(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("evidence").over_seeds


@pytest.mark.parametrize("seeds", [3, 5])
def test_an_interval_holds_the_mean_in_95_of_100(over_seeds, seeds):
    """Of 2,000 experiments; the percentile bootstrap would hold it in 75 and 83 of 100."""
    values = numpy.random.default_rng(0).normal(2.0, 3.0, (2000, seeds))
    ends = numpy.array([over_seeds(each)["interval"] for each in values])
    assert numpy.mean((ends[:, 0] <= 2) & (ends[:, 1] >= 2)) == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval_and_equal_seeds_have_one_of_no_width(over_seeds):
    assert "interval" not in over_seeds([1.0])
    assert over_seeds([0.25, 0.25, 0.25])["interval"] == [0.25, 0.25]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_intervals_are_those_of_their_seeds(over_seeds, path):
    def check(content: Any) -> None:
        if isinstance(content, dict) and {"seeds", "interval"} <= content.keys():
            assert content["interval"] == pytest.approx(over_seeds(content["seeds"])["interval"], rel=1e-6, abs=1e-12)
        for each in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
            check(each)

    check(json.loads(path.read_text()))

"""What docs/explanations/spread.md says is what results/calibration.json holds, and can be drawn from it."""

import json
import re
from pathlib import Path

import pytest

from contextual_rnn.experiments.config import DecayConfig, config_from_dict
from contextual_rnn.experiments.report import figures, html
from contextual_rnn.experiments.runs.folder import command
from contextual_rnn.experiments.stats.intervals import median_interval

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "results" / "calibration.json").read_text())
BY_LABEL = {row["label"]: row for row in ROWS}


def test_the_words_on_the_spread_are_what_the_results_say():
    """docs/explanations/spread.md says it in words; its table is filled by `make pages`."""
    labels = "the paper's loss", "KL weight 0.0001", "KL weight 0.001", "sigma at least 0.2"
    paper, kl, more_kl, floor = (BY_LABEL[label] for label in labels)

    def median(row, metric):
        return median_interval(row["final"][metric]).estimate

    def more_error(row):
        """Of the same seeds than with the paper's loss."""
        assert row["seeds"] == paper["seeds"]
        errors = (each["final"]["free_running_squared_error"] for each in (row, paper))
        return median_interval([ours - theirs for ours, theirs in zip(*errors, strict=True)])

    assert paper["two_deviations_median"][2] < 0.954, "too alike"
    assert median(paper, "mean_scale") > 0.1 * DecayConfig().scale, "sigma has not collapsed"
    assert median(kl, "trajectory_spread") > 2 * median(paper, "trajectory_spread"), "a KL term keeps the spread"
    assert more_error(kl).low < 0 < more_error(kl).high, "not significantly different"
    assert more_error(more_kl).low > 0, "larger"
    assert median(floor, "trajectory_spread") < 1.2 * median(paper, "trajectory_spread"), "a floor does not"


def test_results_have_three_seeds_or_more_and_their_commands():
    assert {len(row["seeds"]) for row in ROWS} == {len(ROWS[0]["seeds"])}
    for row in ROWS:
        assert len(row["seeds"]) >= 3
        for seed, line in zip(row["seeds"], row["commands"], strict=True):
            config = config_from_dict({**row["options"], "task": "decay", "seed": seed, "state": "normal"})
            assert isinstance(config, DecayConfig)
            folder = Path(re.search(r"--out (\S+)", line)[1])
            assert command(config, folder) == line
            assert folder.parent == Path("runs/decay-calibration")
        assert row["two_deviations_median"] == pytest.approx(median_interval(row["two_deviations"]), abs=1e-4)
        assert len(row["epochs"]["mean_scale"]) == 66


def test_the_pictures_can_be_drawn_from_the_results():
    assert len(figures.calibration_curves(ROWS).axes[0].get_lines()) == 1 + sum(1 + len(row["seeds"]) for row in ROWS)
    assert [len(panel.curves) for panel in html.watched(ROWS)] == [len(ROWS)] * 4

"""What the README says of the calibration is what results/calibration.json holds, and can be drawn from it."""

import json
import re
from pathlib import Path

import pytest

from contextual_rnn.experiments.config import DecayConfig, config_from_dict
from contextual_rnn.experiments.report import figures, html, pages
from contextual_rnn.experiments.runs.folder import command
from contextual_rnn.experiments.stats.intervals import median_interval
from contextual_rnn.experiments.studies.evidence import facts_of

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "results" / "calibration.json").read_text())
BY_LABEL = {row["label"]: row for row in ROWS}


def interval(row, metric):
    return "{:.3f} ({:.3f} to {:.3f})".format(*median_interval(row["final"][metric]))


def finding():
    return pages.findings(ROOT / "results" / pages.PROSE, facts_of([], ROWS))["calibration"]


def paragraph():
    paper, kl, floor = (BY_LABEL[label] for label in ("the paper's loss", "KL weight 0.0001", "sigma at least 0.2"))
    peak = max(paper["epochs"]["trajectory_spread"][5:])
    sigma, spread, error = "mean_scale", "trajectory_spread", "free_running_squared_error"
    return " ".join(
        [
            f"**Can the spread be trusted?** {finding()}",
            f"Medians over {len(paper['seeds'])} seeds and 95 % intervals, 65 epochs, on the held-out periods.",
            f"Under the paper's loss sigma has not collapsed, from 0.25 to {interval(paper, sigma)},",
            "but the network learns to suppress the noise: the samples' standard deviation in x falls",
            f"from {peak:.3f} to {interval(paper, spread)}.",
            f"A KL weight of 0.0001 keeps it at {interval(kl, spread)},",
            f"with a free-running error of {interval(kl, error)} against {interval(paper, error)};",
            f"a floor under sigma of 0.2 leaves it at {interval(floor, spread)}.",
        ]
    )


def test_the_readme_says_what_the_results_say():
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert paragraph() in readme


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

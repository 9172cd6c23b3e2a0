"""Networks of several seeds together: their mean and band, and what is published of them."""

import json
from pathlib import Path

import pytest
import torch
from scipy import stats

from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.report.pages import publish_all
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.stats.intervals import median_interval
from contextual_rnn.experiments.studies import ensembles as study
from contextual_rnn.experiments.studies.calibration import PAPER
from contextual_rnn.experiments.studies.ensembles import ensembles, ensembles_table
from contextual_rnn.experiments.sweeps.sweep import SWEEP

SMALL = {"units": 4, "context_units": 0, "samples_per_period": 8, "epochs": 1}
RESULTS = Path(__file__).parents[2] / "results"
ROWS, CALIBRATION = (json.loads((RESULTS / name).read_text()) for name in ("ensembles.json", "calibration.json"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "decay-ensembles"
    made = [
        train(DecayConfig(**SMALL, state=state, seed=seed), folder / f"{state}{seed}")
        for state in ("context", "normal")
        for seed in range(6)
    ]
    (folder / SWEEP).write_text('{"runs": 12}')
    return made


def test_a_row_for_each_state_of_more_than_five_networks(runs):
    rows = ensembles(groups_of(runs))
    assert [row["label"].split(",")[0] for row in rows] == ["context state", "normal state"]
    for row, noisy in zip(rows, (False, True), strict=True):
        assert row["seeds"] == list(range(6))
        assert len(row["alone"]["errors"]) == 6
        assert (row["alone"]["inside"] is not None) == noisy
        assert len(row["halves"]) == 1
        assert row["together"]["error"] < sum(row["alone"]["errors"]) / 6, "a mean is closer than its parts on average"
        assert torch.tensor(list(row["together"]["by_period"].values())).mean() == pytest.approx(
            row["together"]["inside"], abs=1e-4
        )
    assert ensembles(groups_of(runs[:5])) == []
    assert len(ensembles_table(rows).rows) == 2


def test_the_band_holds_what_it_should_of_one_more_network():
    """Normal means: 95 % of the next ones, whether there are few or many networks."""
    generator = torch.Generator().manual_seed(0)
    for count in (5, 10):
        paths = torch.randn(count + 1, 4 * study.SEQUENCES, 500, generator=generator)
        row = study._together(paths[-1], paths[:-1], torch.zeros(count, 1, 1))
        assert row["inside"] == pytest.approx(0.95, abs=0.005)
    draws = torch.randn(10, 4 * study.SEQUENCES, 500, generator=generator)
    assert study._together(draws[0] * 0, draws * 0, torch.ones(10, 1, 1))["half_width"] == pytest.approx(
        stats.t.ppf(0.975, 9), abs=1e-3
    )


def test_they_are_published_apart_from_runs(runs, tmp_path):
    assert publish_all(runs[0].folder.parents[1], tmp_path) == []
    assert json.loads((tmp_path / "ensembles.json").read_text()) == ensembles(groups_of(runs))


def test_the_words_on_several_networks_are_what_the_results_say():
    """docs/explanations/spread.md says it in words; its table is filled by `make pages`."""
    rows = {(row["options"]["state"], row["options"]["period_input"]): row for row in ROWS}
    assert {tuple(row["seeds"]) for row in ROWS} == {tuple(range(10))}
    assert all("--out runs/decay-ensembles/" in command for row in ROWS for command in row["commands"])
    context, normal, zero = (rows[state, False] for state in ("context", "normal", "zero"))

    def error(row):
        return median_interval(row["alone"]["errors"]).estimate

    paper = next(row for row in CALIBRATION if row["label"] == PAPER)
    assert error(normal) < 0.4 * median_interval(paper["final"]["free_running_squared_error"]).estimate, "a third"
    assert error(context) < 1.1 * error(zero), "the zero state that reads the period is no better"
    assert 0.93 < normal["together"]["inside"] < 0.97, "a band that is right"
    assert max(normal["alone"]["inside"]) < 0.9, "one alone is too narrow"
    assert context["together"]["inside"] < 0.93, "without noise the band is too narrow"
    for state, row in (("context", context), ("normal", normal)):
        at_every_step = rows[state, True]
        assert at_every_step["together"]["error"] < row["together"]["error"], "errors are smaller"
        assert at_every_step["together"]["inside"] < 0.93, "and the bands too narrow again"

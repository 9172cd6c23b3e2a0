"""What the report makes of trained weights: the playground's grid, the calibration, the diagnostics."""

import base64
import json
import re
import statistics

import pytest
import torch
from tests.sentences import crowded, html_text

from contextual_rnn.diagnostics import diagnose
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report.html import watched, write_report
from contextual_rnn.experiments.report.playground import INITIALS, PERIODS, playground, to_integers
from contextual_rnn.experiments.report.tables import numbers_of
from contextual_rnn.experiments.runs.folder import read_runs
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.weights import load_model, load_task
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.studies.calibration import RIGHT, calibration, calibration_table, verdicts_of
from contextual_rnn.experiments.tasks.coverage import LEVELS
from contextual_rnn.experiments.tasks.registry import build_task
from contextual_rnn.experiments.training.seeding import generator_for

DECAY = {"units": 6, "context_units": 4, "samples_per_period": 8, "epochs": 2}
RETRIEVAL = {"units": 6, "readout_units": 5, "train_samples": 64, "validation_samples": 32, "epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        train(DecayConfig(seed=seed, **DECAY), folder / f"paper{seed}")
    train(DecayConfig(kl_weight=0.01, **DECAY), folder / "kl")
    train(DecayConfig(state="zero", **DECAY), folder / "zero")
    train(RetrievalConfig(leaves="h+a", **RETRIEVAL), folder / "retrieval")
    train(RetrievalConfig(state="free", network="lstm", **RETRIEVAL), folder / "lstm")
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return {run.folder.name: run for run in read_runs(folder)}


@pytest.fixture(scope="module")
def html(folder):
    return write_report(folder).read_text()


def test_numbers_of_the_grid_survive_as_text():
    values = torch.randn(7, 5, dtype=torch.float64)
    text, low, step = to_integers(values)
    raw = base64.b64decode(text)
    found = [low + step * int.from_bytes(raw[i : i + 2], "little") for i in range(0, len(raw), 2)]
    assert found == pytest.approx(values.flatten().tolist(), abs=0.51 * step)
    assert to_integers(torch.ones(2))[1:] == (1.0, 1.0)


def test_the_playground_shows_what_the_model_generates(runs):
    grid = playground(runs["paper0"])
    raw = base64.b64decode(grid["curves"])
    numbers = torch.tensor([int.from_bytes(raw[i : i + 2], "little") for i in range(0, len(raw), 2)])
    curves = (grid["low"] + grid["step"] * numbers).view(len(PERIODS), len(INITIALS), 2 + grid["samples"], 25)
    model = load_model(runs["paper0"])
    for p, i in ((0, 0), (12, 2), (32, 4)):
        paths = model.free_run(
            INITIALS[i][None] * 1.001,
            PERIODS[p][None],
            num_samples=grid["band_samples"],
            sample=True,
            generator=generator_for("playground"),
        )[0, :, 1:]
        expected = torch.cat([paths.mean(0)[None], paths.std(0)[None], paths[: grid["samples"]]])
        torch.testing.assert_close(curves[p, i], expected.double(), atol=grid["step"], rtol=0, check_dtype=False)
    assert set(grid["trained"] + grid["held_out"]) <= set(grid["periods"])
    assert 3.0 in grid["initials"]
    with pytest.raises(ValueError, match="run: expected a run of the decay task"):
        playground(runs["retrieval"])


def test_calibration_rows(runs):
    rows = calibration(groups_of(list(runs.values())))
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [0]]
    assert "KL weight 0.01" in rows[1]["label"]
    assert "KL" not in rows[0]["label"]
    first = rows[0]
    assert len(first["observed"]) == 3
    assert first["levels"] == list(LEVELS)
    for observed in first["observed"]:
        assert observed == sorted(observed), "a wider interval holds no less"
    low, high = LEVELS.index(0.95), LEVELS.index(0.99)
    for observed, two in zip(first["observed"], first["two_deviations"], strict=True):
        assert observed[low] <= two <= observed[high], "two deviations are nominally 95.4 %"
    assert statistics.mean(first["by_period"].values()) == pytest.approx(first["two_deviations_median"][0], abs=0.2)
    assert first["two_deviations_median"][1] <= first["two_deviations_median"][0] <= first["two_deviations_median"][2]
    assert {len(curve) for curve in first["epochs"].values()} == {3}
    assert first["epochs"]["mean_scale"][0] == 0.25
    assert first["commands"][1].startswith("contextual-rnn train decay --epochs 2 --seed 1")
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def made_up(label, *shares):
    epochs = {name: [0.25, 0.2] for name in ("mean_scale", "smallest_scale", "trajectory_spread")}
    return {
        "label": label,
        "seeds": list(range(len(shares))),
        "levels": [0.5, 0.9],
        "observed": [[share / 2, share] for share in shares],
        "two_deviations": list(shares),
        "two_deviations_median": [0.5, 0.25, 0.75] if len(shares) > 1 else None,
        "by_period": {"1": 0.5, "2": 0.6, "3": 0.7, "4": 0.8},
        "final": dict.fromkeys([*epochs], [0.2] * len(shares))
        | {"free_running_squared_error": [0.03125] * len(shares)},
        "epochs": {**epochs, "coverage_two_deviations": [0.1, 0.6]},
    }


def test_calibration_in_words_and_pictures():
    rows = [made_up("one", 0.5, 0.7, 0.6), made_up("two", 0.95), made_up("three", 0.999)]
    assert verdicts_of(rows) == {
        "too alike": [("one", 0.6, [0.5, 0.25, 0.75])],
        RIGHT: [("two", 0.95, None)],
        "too far apart": [("three", 0.999, None)],
    }
    table = calibration_table(rows).rows
    assert table[0] == ["one", "3", "50.0% (25.0% to 75.0%)", "50%", "60%", "70%", "80%", *["0.200"] * 3, "0.031"]
    assert table[1][2] == "95.0% (one seed)"
    (axes,) = figures.calibration_curves(rows).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["as nominal", "one", "two", "three"]
    assert list(lines["one"]) == [0.3, 0.6], "medians"
    assert len(axes.get_lines()) == 1 + 3 + 5
    sigma, smallest, spread, inside = (figures.learning_curve(panel).axes[0] for panel in watched(rows))
    assert list(sigma.get_lines()[0].get_ydata()) == [0.25, 0.2]
    assert len(smallest.get_lines()) == len(spread.get_lines()) == 3
    assert list(inside.get_lines()[-1].get_ydata()) == [0.1, 0.6]
    with pytest.raises(ValueError, match="rows: expected one calibration or more"):
        figures.calibration_curves([])


def test_diagnoses_of_runs(runs):
    decay = load_task(runs["paper0"]).diagnose()
    assert decay.losses["true"].shape == (25,)
    assert set(decay.sigma) == {"h", "c"}
    assert decay.overall["true"] == pytest.approx(runs["paper0"].result["final"]["validation_squared_error"], rel=0.3)
    for name in ("retrieval", "lstm"):
        found = load_task(runs[name]).diagnose()
        assert found.losses["true"].shape == (1,)
        log_likelihood = runs[name].result["final"]["validation_log_likelihood"]
        assert found.overall["true"] == pytest.approx(-log_likelihood, rel=0.1)
        assert found.influence.length == 11
    assert set(load_task(runs["retrieval"]).diagnose().influence.leaves) == {"h", "a"}
    assert load_task(runs["lstm"]).diagnose().p_value is None, "a free state is the same for all"
    assert set(build_task(RetrievalConfig(state="normal", **RETRIEVAL)).diagnose().sigma) == {"h"}


def test_a_diagnosis_without_permutations_has_a_row_too(runs):
    """That of a table of one series has none."""
    model, (x, period) = load_task(runs["paper0"]).model, load_task(runs["paper0"]).validation
    found = diagnose(model, lambda: model(x[:, :-1], period).square(), permutations=0)
    losses = [f"{found.overall[name]:.3g}" for name in ("true", "zeroed", "mean")]
    assert numbers_of(found)[:5] == [*losses, "-", "-"]


def test_the_report_has_it_all_and_opens_offline(html, folder, runs):
    assert "Can the spread be trusted?" in html
    assert "Did the initial state matter?" in html
    assert "Figure 6: samples" in html
    assert "T = 2, x(0) = 3" in html
    assert not crowded(html_text(html), 3)
    assert "Run paper0, seed 0." in html
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, flags=re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="playground-data"', ""]
    grid = json.loads(scripts[0][1])
    assert grid["curves"] == playground(runs["paper0"])["curves"], "the paper's loss, the lowest seed"
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert len(html) < 1_500_000
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    assert json.loads((folder / "calibration.json").read_text()) == calibration(groups_of(list(runs.values())))
    diagnosed = json.loads((folder / "diagnostics.json").read_text())
    titles = [row["title"] for row in diagnosed]
    assert len(titles) == len(set(titles)) == 3
    for row in diagnosed:
        assert row["title"] in html
    assert f"{diagnosed[-1]['overall']['true']:.3g}" in html

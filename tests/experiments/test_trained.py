"""What is made of trained weights is kept as JSON, and results alone give the same page."""

import shutil

import pytest
import torch

from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.report.from_weights import Trained
from contextual_rnn.experiments.report.html import write_report
from contextual_rnn.experiments.report.pages import publish_all
from contextual_rnn.experiments.report.playground import SAMPLES, SHOWN, generator_for, trajectories
from contextual_rnn.experiments.runs.folder import read_run, write_json
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.weights import load_model
from contextual_rnn.experiments.tasks.decay import DecayModel


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sweep of one tiny run, and the results published from it."""
    runs, results = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("results")
    small = {"units": 6, "context_units": 4, "samples_per_period": 8, "epochs": 1}
    for name in ("decay-paper", "decay-calibration"):
        train(DecayConfig(**small), runs / name / "normal")
        write_json(runs / name / "sweep.json", {"runs": 1})
    shutil.copytree(runs / "decay-paper" / "normal", runs / "casual")
    shutil.copytree(runs / "decay-paper", runs / "reproduce-quick" / "decay")  # whose runs lie deeper
    write_json(runs / "reproduce-quick" / "sweep.json", {"runs": 1})
    assert publish_all(runs, results) == [results / "decay-paper.json"]
    return runs, results


def test_results_hold_what_the_weights_said(folders):
    _, results = folders
    made = Trained.read(results)
    assert made.calibration[0]["commands"][0].endswith("decay-calibration/normal")
    assert made.diagnostics[0]["title"] == "Linear cosine decay, normal state"
    html = write_report(results).read_text()
    for title in ("Playground", "Can the spread be trusted?", "Did the initial state matter?"):
        assert f"<h2>{title}</h2>" in html
    assert "Figure 6: samples" in html
    assert made.diagnostics[0]["caption"].split("; ")[1] in html
    names = {path.name for path in results.iterdir()}
    assert names == {"decay-paper.json", "calibration.json", "diagnostics.json", "playground.json", "report.html"}


def test_trajectories_are_read_back_from_the_playground(folders):
    runs, results = folders
    shown = Trained.read(results).playground
    model = load_model(read_run(runs / "decay-paper" / "normal"))
    assert isinstance(model, DecayModel)
    first, period = torch.tensor([3.0]) * (1 + shown["alpha"] + shown["beta"]), torch.tensor([2.0])
    paths = model.free_run(first, period, num_samples=SAMPLES, sample=True, generator=generator_for("playground"))
    found = trajectories(shown, 2.0, 3.0)
    torch.testing.assert_close(found, paths[0, :SHOWN].detach().double(), rtol=0, atol=shown["step"])
    with pytest.raises(ValueError, match=r"expected a point of the grid, got 2.01, 3.0"):
        trajectories(shown, 2.01, 3.0)

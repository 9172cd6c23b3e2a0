"""Runs of a task from a user's file: with draws from torch's global generator, and with tied weights."""

import json
from pathlib import Path

import pytest
import torch
from tests.experiments.test_sweep import Serial

from contextual_rnn.experiments.config import config_from_dict, registry, task_of_file
from contextual_rnn.experiments.interrupts import Interrupted
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.weights import load_model
from contextual_rnn.experiments.sweeps import stack
from contextual_rnn.experiments.sweeps.sweep import named, sweep

SOURCE = Path(__file__).with_name("mean_task.py").read_text()
DRAWS = (
    ("import ConstantState", "import NormalState, ConstantState"),
    ("else FreeState(rnn)", "else NormalState(rnn, nn.Identity(), features=1)"),
    ("self.rnn(x)", "self.rnn(nn.functional.dropout(x, 0.5, self.training), context=x[:, 0])"),
    ('{"mean_error"', '{"training": float(self.model.training), "drawn": torch.rand(()).item(), "mean_error"'),
)


@pytest.fixture
def with_changes(tmp_path, monkeypatch):
    """A function from changes of the file to a function from a seed to a configuration."""
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")

    def of_seed(*changes):
        source = SOURCE
        for before, after in changes:
            assert before in source
            source = source.replace(before, after)
        path = tmp_path / "changed.py"
        path.write_text(source)
        name = task_of_file(str(path))
        return lambda seed: config_from_dict({"task": name, "seed": seed})

    return of_seed


def train_and_stop(config, folder, steps):
    asked = iter([False] * steps + [True])
    with pytest.raises(Interrupted):
        train(config, folder, interrupted=lambda: next(asked))


def numbers_of(folder: Path):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{**line, "seconds": 0} for line in lines], (folder / "weights.safetensors").read_bytes()


def test_a_run_that_draws_globally_is_the_same_again_and_after_a_stop(with_changes, tmp_path):
    of_seed = with_changes(*DRAWS)
    torch.manual_seed(1)
    expected = torch.get_rng_state()
    train(of_seed(0), tmp_path / "once")
    assert torch.equal(torch.get_rng_state(), expected), "the caller's draws are as they were"
    torch.manual_seed(2)
    train(of_seed(0), tmp_path / "again")
    train_and_stop(of_seed(0), tmp_path / "stopped", 3)
    torch.manual_seed(3)
    train(of_seed(0), tmp_path / "stopped")
    train(of_seed(1), tmp_path / "other")
    lines, weights = numbers_of(tmp_path / "once")
    assert numbers_of(tmp_path / "again") == (lines, weights)
    assert numbers_of(tmp_path / "stopped") == (lines, weights)
    assert {line["training"] for line in lines} == {0.0}
    assert numbers_of(tmp_path / "other")[0][0]["drawn"] != lines[0]["drawn"]


def test_runs_side_by_side_that_draw_globally_are_as_alone(with_changes, tmp_path, monkeypatch):
    of_seed = with_changes(*DRAWS)
    monkeypatch.setattr(stack, "cores", lambda: 4)
    configs = named(of_seed(seed) for seed in range(6))
    sweep(configs, tmp_path / "alone", Serial())
    sweep(configs, tmp_path / "stacked", Serial(), stack=4)
    for name in configs:
        assert numbers_of(tmp_path / "alone" / name) == numbers_of(tmp_path / "stacked" / name)


def test_tied_weights_are_trained_stopped_and_read_back(with_changes, tmp_path):
    readout = "nn.Linear(config.units, 1)\n"
    tied = f"{readout}        self.tied = {readout}        self.tied.weight = self.readout.weight\n"
    config = with_changes((readout, tied))(0)
    run = train(config, tmp_path / "once")
    train_and_stop(config, tmp_path / "stopped", 3)
    train(config, tmp_path / "stopped")
    assert numbers_of(tmp_path / "stopped") == numbers_of(tmp_path / "once")
    model = load_model(run)
    assert model.tied.weight is model.readout.weight
    assert run.result["parameters"] == sum(parameter.numel() for parameter in model.parameters())

"""A run's folder: complete, repeatable to the byte, never overwritten, never lost to a bad step."""

import json
import math
import os
import re

import pyarrow.parquet as pq
import pytest
import safetensors
import torch

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.compare.winner import Predictor
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig, config_from_dict, config_to_dict
from contextual_rnn.experiments.runs import train as training
from contextual_rnn.experiments.runs.folder import command, read_run, read_runs, write_json
from contextual_rnn.experiments.runs.summary import summary
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.weights import load_model
from contextual_rnn.experiments.tasks.decay import DecayTask
from contextual_rnn.experiments.tasks.registry import build_task

RETRIEVAL = {"train_samples": 64, "validation_samples": 32, "batch_size": 16, "pairs": 2, "units": 8, "epochs": 2}
DECAY = {"samples_per_period": 8, "units": 8, "epochs": 2, "batch_size": 16}


def tiny(task: str, **options):
    return RetrievalConfig(**RETRIEVAL | options) if task == "retrieval" else DecayConfig(**DECAY | options)


@pytest.mark.parametrize("task", ["retrieval", "decay"])
@pytest.mark.parametrize("state", ["zero", "free", "context", "normal"])
def test_every_run_is_complete_and_repeatable_to_the_byte(task, state, tmp_path):
    config = tiny(task, state=state)
    threads = torch.get_num_threads()
    seen = []
    first = train(config, tmp_path / "a", progress=lambda *step: seen.append(step[:2]))
    torch.manual_seed(99)  # the global generator must not matter
    second = train(config, tmp_path / "b")
    weights = [(run.folder / "weights.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1]
    assert torch.get_num_threads() == threads
    assert [line["epoch"] for line in first.metrics] == [0, 1, 2]
    assert seen[-1][0] == seen[-1][1] == first.metrics[-1]["step"]
    assert first.result is not None
    assert first.result["final"].items() <= first.metrics[-1].items()
    assert first.config == config
    with safetensors.safe_open(first.folder / "weights.safetensors", "pt") as file:
        assert config_from_dict(json.loads(file.metadata()["config"])) == config
    names = {"config.json", "metrics.jsonl", "weights.safetensors", "result.json"}
    assert {path.name for path in first.folder.iterdir()} == names
    loaded = load_model(first)
    assert not loaded.training


def test_training_moves_every_parameter(tmp_path):
    for task, state, leaves in [
        ("retrieval", "context", "h+a"),
        ("retrieval", "free", "h+a"),
        ("decay", "normal", None),
    ]:
        config = tiny(task, state=state, **({"leaves": leaves} if leaves else {}))
        trained = dict(load_model(train(config, tmp_path / f"{task}{state}")).named_parameters())
        fresh = dict(build_task(config).model.named_parameters())
        still = [name for name in fresh if torch.equal(fresh[name], trained[name])]
        # Unused letters and digits of the embedding stay; the matrix as a whole moves.
        assert not still


def test_seed_and_data_seed_are_apart(tmp_path):
    base, seed, data = (build_task(tiny("retrieval", **o)) for o in ({}, {"seed": 1}, {"data_seed": 1}))
    assert torch.equal(base.training[0], seed.training[0])
    assert not torch.equal(base.training[0], data.training[0])
    assert not torch.equal(base.model.hidden.weight, seed.model.hidden.weight)
    assert torch.equal(base.model.hidden.weight, data.model.hidden.weight)


def test_a_finished_run_is_read_not_trained_again(tmp_path, monkeypatch):
    first = train(tiny("decay"), tmp_path)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    assert train(tiny("decay"), tmp_path) == first


def test_another_run_is_never_overwritten(tmp_path):
    train(tiny("decay"), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=r"folder: .* differs in seed"):
        train(tiny("decay", seed=1), tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(ValueError, match="folder: expected a new, empty or matching run folder"):
        train(tiny("decay"), tmp_path / "thesis")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_names_the_step_and_keeps_the_last_good_weights(tmp_path, monkeypatch, bad):
    good = train(tiny("decay", epochs=1), tmp_path / "good")
    loss, per_epoch = DecayTask.loss, good.metrics[-1]["step"]
    steps = iter(range(1, 100))
    monkeypatch.setattr(DecayTask, "loss", lambda *a: loss(*a) * (bad if next(steps) == per_epoch + 2 else 1.0))
    run = train(tiny("decay", epochs=3), tmp_path / "bad")
    assert re.search(f"loss of step {per_epoch + 2} is not finite.*weights of epoch 1", run.result["diverged"])
    assert run.result["final"] == {"epoch": 1, "step": per_epoch}, "no metric that a mean over runs could take for good"
    assert [line["epoch"] for line in run.metrics] == [0, 1]
    assert train(run.config, run.folder) == run, "an outcome, which is not tried again"
    kept, expected = load_model(run).state_dict(), load_model(good).state_dict()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_gradients_are_clipped(tmp_path):
    runs = [train(tiny("decay", clip_norm=norm), tmp_path / str(norm)) for norm in (1e-8, 1e8)]
    assert runs[0].metrics[-1]["train_loss"] != runs[1].metrics[-1]["train_loss"]


def test_config_round_trip_and_refusals():
    config = RetrievalConfig(state="free", leaves="h+a", alphabet_size=20)
    assert config_from_dict(config_to_dict(config)) == config
    with pytest.raises(ValueError, match=r"task: expected one of retrieval, decay, panel, .*, got 'chess'"):
        config_from_dict({"task": "chess"})
    with pytest.raises(ValueError, match=r"options of decay: .* got pears"):
        config_from_dict({"task": "decay", "pears": 3})


def test_an_option_that_is_gone_is_read_at_the_value_that_every_run_now_has():
    """Folders and results of earlier versions name the schedule of the step size."""
    written = {**config_to_dict(RetrievalConfig(units=7)), "schedule": "constant"}
    assert config_from_dict(written) == RetrievalConfig(units=7)
    with pytest.raises(ValueError, match="schedule: expected constant, the only one that there still is, got 'cosine'"):
        config_from_dict({"task": "decay", "schedule": "cosine"})


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (RetrievalConfig, {"state": "warm"}, "state: expected one of zero, free, context, normal"),
        (DecayConfig, {"state": "warm"}, "state: expected one of zero, free, context, normal"),
        (RetrievalConfig, {"start": "cold"}, "start: expected one of sound, wenke2019"),
        (RetrievalConfig, {"timing": "late"}, "timing: expected one of ba2016, wenke2019"),
        (RetrievalConfig, {"leaves": "a"}, r"leaves: expected one of h, h\+a"),
        (RetrievalConfig, {"units": 0}, "units"),
        (RetrievalConfig, {"alphabet_size": 27}, "alphabet_size"),
        (DecayConfig, {"epochs": 0}, "epochs"),
        (DecayConfig, {"learning_rate": math.nan}, "learning_rate"),
        (DecayConfig, {"scale": 0.0}, "scale"),
        (DecayConfig, {"scale": -1.0}, "scale"),
        (DecayConfig, {"min_scale": -0.1}, "min_scale"),
        (DecayConfig, {"clip_norm": 0}, "clip_norm"),
        (DecayConfig, {"kl_weight": -1e-5}, "kl_weight"),
        (DecayConfig, {"kl_weight": 1e-5, "state": "context"}, "kl_weight: expected 0 but for the normal state"),
    ],
)
def test_bad_options_are_refused(kind, options, named):
    with pytest.raises(ValueError, match=named):
        kind(**options)


def test_what_is_no_configuration_and_no_path_is_named(tmp_path):
    with pytest.raises(ValueError, match="config: expected the configuration of a registered task, got dict"):
        train({"task": "decay"}, tmp_path)
    for call in (lambda folder: train(tiny("decay"), folder), read_run, read_runs, Predictor.from_pretrained):
        with pytest.raises(TypeError, match="folder: expected the path of a folder, got 3"):
            call(3)


def test_read_runs_finds_all_and_refuses_none(tmp_path):
    train(tiny("decay", epochs=1), tmp_path / "x" / "one")
    assert [run.folder.name for run in read_runs(tmp_path)] == ["one"]
    with pytest.raises(ValueError, match="folder: expected runs"):
        read_runs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="folder: expected a run"):
        read_run(tmp_path)


def test_the_command_of_a_run_trains_that_run(tmp_path):
    config = RetrievalConfig(state="zero", modified=True, layer_norm=False, alphabet_size=9, learning_rate=0.01)
    words = command(config, tmp_path)
    for option in ("--state zero", "--modified", "--no-layer-norm", "--alphabet-size 9", "--learning-rate 0.01"):
        assert option in words
    assert "--pairs" not in words


def test_summary_groups_seeds_and_leaves_unfinished_runs_out(tmp_path):
    for seed in (1, 0, 2):
        train(tiny("decay", seed=seed), tmp_path / f"seed{seed}")
    train(tiny("decay", state="zero"), tmp_path / "zero")
    (tmp_path / "zero" / "result.json").unlink()
    diverged = train(tiny("decay", seed=3), tmp_path / "diverged")
    write_json(diverged.folder / "result.json", diverged.result | {"final": {"epoch": 1}, "diverged": "loss of step 9"})
    (row,) = summary(read_runs(tmp_path))
    finals = [read_run(tmp_path / f"seed{seed}").result["final"] for seed in range(3)]
    assert (row["seeds"], row["diverged"]) == ([0, 1, 2], [3])
    assert "seed" not in row["options"]
    for name in ("validation_squared_error", "free_running_squared_error"):
        assert row["final"][name] == [final[name] for final in finals]
        assert row["median"][name] == sorted(row["final"][name])[1]


def test_half_a_line_and_broken_weights_are_survived(tmp_path):
    run = train(tiny("decay"), tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')
    assert read_run(tmp_path).metrics == run.metrics
    (tmp_path / "weights.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="run: expected the weights of its configuration"):
        load_model(run)


def test_a_folder_whose_name_is_no_utf_8(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"r\xff")
    run = train(tiny("decay", epochs=1), folder)
    assert read_run(folder) == run
    assert "r\\xff" in run.result["command"]
    assert main(["results", str(tmp_path)]) == 0
    assert pq.read_table(tmp_path / "results.parquet")["folder"].to_pylist() == [f"{tmp_path}/r\\xff"]

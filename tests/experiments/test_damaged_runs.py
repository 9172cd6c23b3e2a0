"""Damaged runs are left out by the name of their file; the others are read."""

import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from markupsafe import Markup
from tests.fuzz.damaged_runs import damage

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig, config_to_dict, identity
from contextual_rnn.experiments.report import gather, playground
from contextual_rnn.experiments.report import html as report
from contextual_rnn.experiments.report.from_weights import Trained, trained
from contextual_rnn.experiments.report.html import write_report
from contextual_rnn.experiments.runs.folder import read_run, read_runs, write_json
from contextual_rnn.experiments.runs.published import publish, read_results
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.weights import load_model
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.sweeps.sweep import folder_name, sweep
from contextual_rnn.experiments.tasks import decay, retrieval

RETRIEVAL = {"units": 6, "readout_units": 5, "train_samples": 16, "validation_samples": 8, "epochs": 2}
DECAY = {"units": 4, "context_units": 3, "samples_per_period": 4, "epochs": 2}
VERSIONS = {"contextual_rnn": "0", "torch": "1", "python": "2"}


def made_run(folder, config=None, accuracy=0.5):
    """A finished run without weights."""
    config = config or RetrievalConfig(**RETRIEVAL)
    name = "validation_accuracy" if isinstance(config, RetrievalConfig) else "validation_squared_error"
    lines = [{"epoch": epoch, "step": epoch, name: accuracy, "seconds": 1.0} for epoch in range(config.epochs + 1)]
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config_to_dict(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = "contextual-rnn train --out x"
    result = {"final": lines[-1], "seconds": 1.0, "parameters": 3, "command": command, "versions": VERSIONS}
    write_json(folder / "result.json", result)
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two finished runs, "good" and "bad"."""
    for name in ("good", "bad"):
        made_run(tmp_path / name, RetrievalConfig(seed=(name == "bad" and 1) or 0, **RETRIEVAL))
    return tmp_path


@pytest.fixture
def plain(monkeypatch):
    """Reports without their pictures, which take most of the time."""
    monkeypatch.setattr(report, "inline", lambda figure, name: Markup("<svg></svg>"))


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(RetrievalConfig(**RETRIEVAL), folder / "retrieval")
    train(DecayConfig(**DECAY), folder / "decay")
    return folder


def edit(path, change):
    """Change the JSON object in a file, or in its second line."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    index = min(1, len(lines) - 1)
    content = json.loads(lines[index])
    change(content)
    lines[index] = json.dumps(content)
    path.write_text("\n".join(lines) + "\n")


RESULT = {
    "no final": lambda d: d.pop("final"),
    "no versions": lambda d: d.pop("versions"),
    "no command": lambda d: d.pop("command"),
    "no seconds": lambda d: d.pop("seconds"),
    "final a list": lambda d: d.update(final=[1, 2]),
    "final empty": lambda d: d.update(final={}),
    "final of text": lambda d: d["final"].update(validation_accuracy="0.5"),
    "final true": lambda d: d["final"].update(validation_accuracy=True),
    "final null": lambda d: d["final"].update(validation_accuracy=None),
    "final nan": lambda d: d["final"].update(validation_accuracy=float("nan")),
    "final infinite": lambda d: d["final"].update(validation_accuracy=float("inf")),
    "final huge": lambda d: d["final"].update(validation_accuracy=10**400),
    "final beyond float32": lambda d: d["final"].update(validation_accuracy=1e300),
    "final without the measure": lambda d: d["final"].pop("validation_accuracy"),
    "final of another epoch": lambda d: d["final"].update(epoch=1),
    "epoch no count": lambda d: d["final"].update(epoch=2.0),
    "a name of a metric": lambda d: d["final"].update({"a\nb": 1.0}),
    "half a surrogate pair": lambda d: d.update(command="\ud800"),
    "command a number": lambda d: d.update(command=3),
    "command null": lambda d: d.update(command=None),
    "versions a list": lambda d: d.update(versions=["1"]),
    "versions of numbers": lambda d: d["versions"].update(torch=2.1),
    "seconds text": lambda d: d.update(seconds="1"),
    "parameters text": lambda d: d.update(parameters="many"),
    "parameters negative": lambda d: d.update(parameters=-1),
    "diverged a bool": lambda d: d.update(diverged=True),
    "diverged null": lambda d: d.update(diverged=None),
}
CONFIG = {
    "huge number": lambda d: d.update(units=10**400),
    "text for a bool": lambda d: d.update(modified="<b>yes"),
    "number for a bool": lambda d: d.update(layer_norm=1),
    "text for a seed": lambda d: d.update(seed="one"),
    "fraction for a seed": lambda d: d.update(seed=0.5),
    "bool for a seed": lambda d: d.update(seed=True),
    "null for a seed": lambda d: d.update(seed=None),
    "bool for an int": lambda d: d.update(pairs=True),
    "bool for a number": lambda d: d.update(decay=True),
    "text for a number": lambda d: d.update(learning_rate="0.001"),
    "nan": lambda d: d.update(rate=float("nan")),
    "a list": lambda d: d.update(state=["zero"]),
    "an object": lambda d: d.update(timing={}),
    "float for a size": lambda d: d.update(units=6.0),
    "text for what may be null": lambda d: d.update(alphabet_size="26"),
    "unknown": lambda d: d.update(unit=6),
    "other case": lambda d: d.update(Units=6),
    "task a list": lambda d: d.update(task=[]),
    "no task": lambda d: d.pop("task"),
    "another task": lambda d: d.update(task="decay"),
}
METRICS = {
    "text": lambda d: d.update(validation_accuracy="0.5"),
    "nan": lambda d: d.update(validation_accuracy=float("nan")),
    "huge": lambda d: d.update(step=10**400),
    "no epoch": lambda d: d.pop("epoch"),
    "epoch twice": lambda d: d.update(epoch=0),
    "epoch text": lambda d: d.update(epoch="1"),
    "nested": lambda d: d.update(seconds=[1.0]),
    "name": lambda d: d.update({"": 1.0}),
}
EDITS = [
    pytest.param(file, change, id=f"{file}: {name}")
    for file, edits in (("result.json", RESULT), ("config.json", CONFIG), ("metrics.jsonl", METRICS))
    for name, change in edits.items()
]


def refused(command, folder, path, capsys):
    """The command goes on with the good run and names `path`, once, in one line."""
    assert main([command, str(folder)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("contextual-rnn: left out: ")
    assert str(path) in lines[0]
    assert lines[1] == "contextual-rnn: left out: 1 in all"


@pytest.mark.parametrize(("file", "change"), EDITS)
def test_edits_are_named(runs, file, change, capsys):
    path = runs / "bad" / file
    edit(path, change)
    refused("results", runs, path, capsys)
    with pytest.raises(ValueError, match=str(path)):
        read_run(runs / "bad")


FILES = {
    "empty": lambda path: path.write_text("" if path.suffix == ".json" else "\n"),
    "a list": lambda path: path.write_text("[1]\n"),
    "null": lambda path: path.write_text("null\n"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    "a mark of byte order": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "deep": lambda path: path.write_text("[" * 100_000 + "]" * 100_000 + "\n"),
    "deep objects": lambda path: path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000 + "\n"),
    "a key twice": lambda path: path.write_text(path.read_text().replace("{", '{"seconds": 0, "seconds": 1, ', 1)),
    "Infinity": lambda path: path.write_text(path.read_text().replace(": ", ": Infinity, \"x\": ", 1)),
    "1e999": lambda path: path.write_text(path.read_text().replace(": ", ": 1e999, \"x\": ", 1)),
    "digits": lambda path: path.write_text(path.read_text().replace(": ", f": {'9' * 5000}, \"x\": ", 1)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}  # fmt: skip


@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("what", FILES)
def test_files_are_named(runs, file, what, capsys):
    path = runs / "bad" / file
    FILES[what](path)
    refused("results", runs, path, capsys)


@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl"])
def test_what_is_missing_is_named(runs, file, capsys):
    (runs / "bad" / file).unlink()
    refused("results", runs, runs / "bad", capsys)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_result_of_other_epochs_than_the_configuration_is_named(runs, epochs, capsys):
    edit(runs / "bad" / "config.json", lambda d: d.update(epochs=epochs))
    refused("results", runs, runs / "bad", capsys)


def test_a_run_without_a_result_is_unfinished(runs, capsys):
    (runs / "bad" / "result.json").unlink()
    assert main(["results", str(runs)]) == 0
    assert capsys.readouterr().err == ""
    assert [run.result is None for run in read_runs(runs)] == [True, False]


@pytest.mark.parametrize("command", ["results", "report"])
def test_none_that_can_be_read_is_an_error(runs, command, capsys):
    for name in ("good", "bad"):
        edit(runs / name / "result.json", lambda d: d.pop("final"))
    assert main([command, str(runs)]) == 1
    *left_out, count, last = capsys.readouterr().err.splitlines()
    assert [str(runs / name / "result.json") in line for name, line in zip(("bad", "good"), left_out, strict=True)]
    assert count.endswith("left out: 2 in all")
    assert (
        last == f"contextual-rnn: folder: expected runs (folders with config.json), got 2 that cannot be read in {runs}"
    )


def test_the_report_goes_on_and_says_why(runs, capsys, plain):
    edit(runs / "bad" / "result.json", lambda d: d.update(command=["<b>"]))
    refused("report", runs, runs / "bad" / "result.json", capsys)
    html = (runs / "report.html").read_text()
    assert "<h2>Left out</h2>" in html
    assert f"{Path('bad', 'result.json')}, got [&#39;&lt;b&gt;&#39;]" in html
    assert len(json.loads((runs / "summary.json").read_text())) == 1


WEIGHTS = {
    "of another shape": lambda tensors: {**tensors, min(tensors): torch.zeros(3, 2)},
    "of another dtype": lambda tensors: {name: tensor.half() for name, tensor in tensors.items()},
    "missing": lambda tensors: dict(list(tensors.items())[1:]),
    "more": lambda tensors: {**tensors, "more": torch.zeros(1)},
    "nan": lambda tensors: {name: tensor * float("nan") for name, tensor in tensors.items()},
    "infinite": lambda tensors: {name: tensor + float("inf") for name, tensor in tensors.items()},
}


@pytest.fixture
def quick(monkeypatch):
    """Diagnoses and samples that are small."""
    for module, name in ((decay, "diagnose"), (retrieval, "diagnose")):
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), permutations=1, influence_steps=2))
        monkeypatch.setattr(module, "DIAGNOSED", 8)
    monkeypatch.setattr(playground, "PERIODS", playground.PERIODS[:2])


@pytest.mark.parametrize("task", ["retrieval", "decay"])
@pytest.mark.parametrize("what", [*WEIGHTS, "of another run", "without its run", "cut off", "no weights", "a folder"])
def test_weights(trained_runs, tmp_path, task, what, capsys, quick):
    """What needs the weights of this run is not made, and says so; what needs others is."""
    folder = shutil.copytree(trained_runs, tmp_path / "runs")
    path = folder / task / "weights.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    if what == "of another run":
        metadata["config"] = metadata["config"].replace('"seed": 0', '"seed": 7')
    if what == "without its run":
        metadata = None
    path.write_bytes(safetensors.torch.save(WEIGHTS.get(what, dict)(tensors), metadata))
    if what == "cut off":
        path.write_bytes(path.read_bytes()[:-9])
    elif what == "no weights":
        path.write_bytes(b"\xff" * 99)
    elif what == "a folder":
        path.unlink()
        path.mkdir()
    runs, errors = read_runs(folder), []
    groups = groups_of(runs)
    made = trained([group for group in groups if group.runs[0].task == "decay"], groups, errors.append)
    assert {str(error).partition(", got others")[0] for error in errors} == {
        f"run: expected the weights of its configuration in {path}"
    }
    assert [row["run"]["task"] for row in made.diagnostics] == ["decay" if task == "retrieval" else "retrieval"]
    assert (made.playground is None) == (made.calibration == []) == (task == "decay")
    with pytest.raises(ValueError, match=f"run: expected the weights of its configuration in {path}, got others"):
        load_model(read_run(folder / task))
    if task == "decay":
        assert main(["generate", str(folder / task)]) == 1
        assert str(path) in capsys.readouterr().err


def test_trajectories_that_are_not_finite(trained_runs, tmp_path, capsys, plain, quick):
    """Of weights that are finite, and too large."""
    folder = shutil.copytree(trained_runs, tmp_path / "runs")
    path = folder / "decay" / "weights.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["readout.weight"].fill_(3e38)
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    refused("report", folder, path, capsys)
    assert main(["generate", str(folder / "decay")]) == 1
    assert f"run: expected finite trajectories from the weights in {path}" in capsys.readouterr().err
    assert not (folder / "decay" / "trajectories.svg").exists()


def test_a_model_too_large_for_any_machine_is_not_built(trained_runs, tmp_path, capsys, plain, quick):
    """The configuration says so, and its weights another one."""
    folder = shutil.copytree(trained_runs, tmp_path / "runs")
    edit(folder / "decay" / "config.json", lambda d: d.update(units=10**12))
    refused("report", folder, folder / "decay" / "weights.safetensors", capsys)


def test_generate_names_the_file(runs, capsys):
    edit(runs / "bad" / "config.json", lambda d: d.update(seed="one"))
    assert main(["generate", str(runs / "bad")]) == 1
    assert str(runs / "bad" / "config.json") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("result.json", lambda path: edit(path, RESULT["no final"])),
        ("result.json", lambda path: edit(path, RESULT["final without the measure"])),
        ("metrics.jsonl", lambda path: path.unlink()),
    ],
)
def test_a_sweep_names_a_damaged_file(tmp_path, file, change):
    """And trains the others."""
    configs = [RetrievalConfig(seed=seed, **RETRIEVAL) for seed in range(2)]
    made_run(tmp_path / folder_name(configs[0]), configs[0])
    path = tmp_path / folder_name(configs[0]) / file
    change(path)
    from tests.experiments.test_sweep import Serial

    progress = sweep(configs, tmp_path, Serial())
    assert list(progress.failed) == [folder_name(configs[0])]
    reason = progress.reasons[folder_name(configs[0])]
    assert reason.startswith("ValueError: file: ")
    assert str(path) in reason
    assert progress.outcomes[folder_name(configs[1])].result is not None


PUBLISHED = {
    "no runs of text": lambda d: d.update(runs="x"),
    "a run a list": lambda d: d["runs"].insert(0, []),
    "options a list": lambda d: d.update(options=[]),
    "an option": lambda d: d["options"].update(units="x"),
    "no options": lambda d: d.pop("options"),
    "metrics of text": lambda d: d["runs"][0]["metrics"].update(validation_accuracy="x"),
    "metrics too short": lambda d: d["runs"][0]["metrics"].update(validation_accuracy=[1.0], step=[1.0, 2.0]),
    "no command": lambda d: d["runs"][0].pop("command"),
    "versions": lambda d: d.update(versions=3),
}


@pytest.mark.parametrize("what", PUBLISHED)
def test_published_results(runs, tmp_path_factory, what):
    results = tmp_path_factory.mktemp("results")
    for name in ("a", "b"):
        publish(read_runs(runs), results / f"{name}.json")
    path = results / "b.json"
    content = json.loads(path.read_text())
    PUBLISHED[what](content)
    path.write_text(json.dumps(content))
    errors = []
    assert len(read_results(results, errors.append)) == 2
    assert [str(path) in str(error) for error in errors] == [True]
    with pytest.raises(ValueError, match=str(path)):
        read_results(results)


@pytest.mark.parametrize("name", ["calibration.json", "diagnostics.json", "playground.json"])
@pytest.mark.parametrize("text", ["{", "[1]", "[{}]", "{}", '[{"label": 1}]', "null"])
def test_what_was_made_of_weights(runs, tmp_path_factory, name, text, capsys, plain):
    results = tmp_path_factory.mktemp("results")
    publish(read_runs(runs), results / "a.json")
    (results / name).write_text(text)
    errors = []
    Trained.read(results, errors.append)
    assert [str(results / name) in str(error) for error in errors] == [True]
    assert main(["report", str(results)]) == 0
    assert str(results / name) in capsys.readouterr().err


def test_an_int_for_a_float_is_the_same_run():
    for one, other in (({"decay": 1}, {"decay": 1.0}), ({"learning_rate": 1}, {"learning_rate": 1.0})):
        left, right = RetrievalConfig(**one), RetrievalConfig(**other)
        assert left == right
        assert identity(left) == identity(right)
        assert [type(value) for value in dataclasses.astuple(left)] == [type(v) for v in dataclasses.astuple(right)]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seed": True}, TypeError, "seed: expected an int, got True"),
        ({"seed": "0"}, TypeError, "seed: expected an int, got '0'"),
        ({"seed": 2**63}, ValueError, "seed: expected a number that 64 bits hold"),
        ({"units": 6.0}, TypeError, "units: expected an int, got 6.0"),
        ({"units": float("nan")}, TypeError, "units: expected an int, got nan"),
        ({"modified": 1}, TypeError, "modified: expected True or False, got 1"),
        ({"modified": None}, TypeError, "modified: expected True or False, got None"),
        ({"rate": False}, TypeError, "rate: expected a number, got False"),
        ({"rate": "0.5"}, TypeError, "rate: expected a number, got '0.5'"),
        ({"rate": float("inf")}, ValueError, "rate: expected a finite number, got inf"),
        ({"rate": 10**400}, ValueError, "rate: expected a number that 64 bits hold"),
        ({"alphabet_size": "9"}, TypeError, "alphabet_size: expected an int or None, got '9'"),
        ({"alphabet_size": True}, TypeError, "alphabet_size: expected an int or None, got True"),
        ({"state": ["zero"]}, ValueError, "state: expected one of zero, free"),
        ({"state": None}, ValueError, "state: expected one of zero, free"),
        ({"device": 0}, ValueError, "device: expected one of cpu, cuda"),
    ],
)
def test_types_of_options(options, error, text):
    with pytest.raises(error, match=text):
        RetrievalConfig(**options)


@pytest.mark.parametrize("task", ["retrieval", "decay"])
def test_random_damages(trained_runs, tmp_path, task, capsys, plain, monkeypatch):
    """A short run of the fuzzer: the good run is always read, and what is refused is named."""
    loaded = 0
    for index in range(150):
        folder = tmp_path / str(index)
        shutil.copytree(trained_runs / task, folder / "bad")
        what = damage(folder / "bad", random.Random(index))
        errors = []
        runs = []
        with contextlib.suppress(ValueError):
            runs = read_runs(folder, errors.append)
        if runs and "weights" in what:
            loaded += 1
            try:
                load_model(runs[0])
            except ValueError as error:
                errors.append(error)
        else:
            assert len(runs) + len(errors) == 1, what
        assert all(str(folder / "bad") in str(error) for error in errors), what
    assert loaded > 10


@pytest.mark.parametrize("task", ["retrieval", "decay"])
def test_reports_of_random_damages(trained_runs, tmp_path, task, plain, monkeypatch):
    """Without diagnoses, which take a second each."""
    monkeypatch.setattr(gather, "trained", lambda *_: Trained([], [], None))
    for index in range(150, 156):
        folder = tmp_path / str(index)
        shutil.copytree(trained_runs / task, folder / "bad")
        shutil.copytree(trained_runs / task, folder / "good")
        what = damage(folder / "bad", random.Random(index))
        errors = []
        assert write_report(folder, errors.append).is_file(), what
        assert all(str(folder / "bad") in str(error) for error in errors), what

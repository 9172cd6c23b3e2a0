"""Parts of a task in a user's file that cannot be used are named, before any training where that is possible."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from tests.experiments.test_sweep import Serial

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import registry, tasks
from contextual_rnn.experiments.sweeps import workers

SOURCE = Path(__file__).with_name("mean_task.py").read_text()


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """No other test knows the tasks."""
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    monkeypatch.setattr(registry, "_LOADED", set())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("return (self.model(x) - x.mean(1)).square().mean()", "return 1.0", "loss: expected a tensor .*, got float"),
        (".square().mean()", ".square()", r"loss: expected a tensor of one number .*, got one of shape \(8, 1\)"),
        ("return (self.model(x) - x.mean(1)).square().mean()", "return torch.zeros(())", "loss: .*, got one without"),
        ("error.mean().item()", "error.mean()", "evaluate: expected a number for mean_error, got Tensor"),
        ("error.mean().item()", "True", "evaluate: expected a number for mean_error, got bool"),
        ("error.mean().item()", "10**400", "evaluate: expected a float for mean_error, got a larger number"),
        ('{"mean_error":', '{"error":', "evaluate: expected mean_error, the first metric .*, got error, share_close"),
        ('{"mean_error"', '{3: 1.0, "mean_error"', "evaluate: expected names of metrics, got 3"),
        *(
            ('{"mean_error"', f'{{"{name}": 1.0, "mean_error"', f"evaluate: expected other names .*, got {name}")
            for name in ("epoch", "step", "seconds", "train_loss")
        ),
        ('return {"mean_error"', 'return None and {"mean_error"', "evaluate: expected a dict .*, got NoneType"),
        ("self.model = MeanModel(config)", "self.model = 3", "model: expected a module with parameters .*, got int"),
        (
            "MeanModel(config)",
            "MeanModel(config).requires_grad_(False)",
            "model: expected at least one parameter that requires a gradient, got none",
        ),
        ("(draws[:16],)", "draws[:16]", "training: expected a tuple of tensors in MeanTask, got Tensor"),
        ("(draws[:16],)", "(draws[:16], draws[:3])", r"training: expected as many rows .*, got \[16, 3\]"),
        ("(draws[:16],)", "(draws[:0],)", r"training: expected as many rows .*at least one, got \[0\]"),
        ("class MeanTask(Task[MeanModel])", "class MeanTask", "task: expected a Task for MeanConfig, got MeanTask"),
        ("@dataclass(frozen=True)\nclass MeanConfig", "class MeanConfig", "config: expected a frozen dataclass"),
        ("class MeanConfig(TrainingConfig)", "class MeanConfig", "config: expected a frozen dataclass"),
        ('name="mean"', "name=3", "name: expected a task's name of letters, digits and _, got 3"),
        ("metrics=(Metric(", 'metrics=("a", Metric(', r"metrics: expected a tuple of Metric for mean, got \('a'"),
        ('final("mean_error")', '"mean_error"', "measures: expected a function for mean_error of mean"),
        ("task=MeanTask", "task=None", "task: expected a class, a function or 'module:name' for mean, got None"),
        ('title="The mean of a sequence"', "title=None", "title: expected text, got None"),
        ('text="Averages', 'columns=("nosuch",), text="Averages', r"columns: .* options of mean, got \('nosuch',\)"),
        ('text="Averages', 'columns="state", text="Averages', "columns: expected a tuple of options .*, got 'state'"),
        ('text="Averages', 'titles={"a": {}}, text="Averages', "titles: expected texts for values of options of mean"),
        ('text="Averages', 'drawings=(("a.svg", ""),), text="Averages', r"drawings: expected .*, got \('a.svg', ''\)"),
        ('text="Averages', 'trajectories=1, text="Averages', "trajectories: expected True or False, got 1"),
        ('"error", axis', "None, axis", "label: expected text, got None"),
        ('"close", "share"', '"close", "logg"', "scale: expected one of linear, log, share, negative, got 'logg'"),
        ('Metric("share_close"', 'Metric("mean_error"', "metrics: expected every name once for mean"),
        ('Measure("largest_step"', 'Measure("mean_error"', "measures: expected every name once for mean"),
        ('Measure("largest_step"', "Measure(3", "name: expected text, got 3"),
        ("from __future__ import annotations", "from . import helper", "import NAME, not from . import NAME"),
        ("from __future__ import annotations", "import sys; sys.exit(5)", "expected Python that registers tasks .*: 5"),
    ],
)
def test_parts_of_a_task_of_another_kind_are_named(before, after, message, tmp_path, monkeypatch, capsys):
    assert before in SOURCE
    path = tmp_path / "task.py"
    path.write_text(SOURCE.replace(before, after))
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert "evaluate" not in message or not (tmp_path / "run" / "metrics.jsonl").exists(), "found before the first step"


def test_a_metric_may_be_a_number_of_numpy(tmp_path, monkeypatch):
    path = tmp_path / "task.py"
    numbers = SOURCE.replace("error.mean().item()", "__import__('numpy').float32(error.mean().item())")
    path.write_text(numbers.replace('{"mean_error"', '{"count": __import__("numpy").int64(3), "mean_error"'))
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 0
    final = json.loads((tmp_path / "run" / "result.json").read_text())["final"]
    assert (type(final["count"]), type(final["mean_error"])) == (int, float)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("return Tested(", "return (", "test: expected a Tested from mean, got tuple"),
        (".abs()[:, 0],", ".abs()[:, 0].tolist(),", r"errors: expected a tensor \(examples, steps\), got list"),
        ("range(len(x))", "range(3)", r"errors: expected those of the 3 examples that series names"),
        ("range(len(x))])", "range(24)], ['a'] * 3)", "groups: expected one for each of 24 examples, got 3"),
        (
            "range(len(x))])",
            "range(24)], scores={'crps': torch.rand(24, 2)})",
            r"crps: expected \(24,\) as errors, got \(24, 2\)",
        ),
        (
            ".abs()[:, 0],",
            ".abs()[:, 0] * torch.nan,",
            "errors: expected at least one that is a number, got nan in all 24",
        ),
        ("def test(", "def untested(", "task: expected one with test data, got mean, whose test"),
        ("measures=(", "measures=() and (", "task: expected one with a measure to choose by, got mean"),
    ],
)
def test_parts_of_a_test_of_another_kind_are_named(before, after, message, tmp_path, monkeypatch, capsys):
    path = tmp_path / "task.py"
    path.write_text(SOURCE.replace(before, after))
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    monkeypatch.setattr(workers, "local_workers", lambda count: contextlib.nullcontext(Serial()))
    assert main(["compare", str(path), "--arms", "warm", "--seeds", "1", "--out", str(tmp_path / "run")]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists(), "found before any training"


def test_seeds_with_other_test_examples_are_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "task.py"
    path.write_text(SOURCE.replace("str(index) for", "str(index + torch.initial_seed()) for"))
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    monkeypatch.setattr(workers, "local_workers", lambda count: contextlib.nullcontext(Serial()))
    assert main(["compare", str(path), "--arms", "warm", "--seeds", "2", "--out", str(tmp_path / "run")]) == 1
    assert "test: expected the same examples and scores for every seed, got others for zero" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = batch[0][rows or slice(None)]", "x = batch[0] @ torch.zeros(7, 7)"),
        ("    TaskEntry(", "    1 + TaskEntry("),
        ('return {"mean_error"', 'return None and {"mean_error"'),
    ],
)
def test_an_error_in_the_file_says_where(before, after, tmp_path, monkeypatch, capsys):
    path = tmp_path / "task.py"
    path.write_text(SOURCE.replace(before, after))
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 1
    line = 1 + SOURCE[: SOURCE.index(before)].count("\n")
    place = f" ({path}, line {line})\n"
    assert capsys.readouterr().err.endswith(place) == ("None" not in after), "of an error outside no place is known"


def test_a_file_that_fails_after_it_has_registered_leaves_no_task(tmp_path, monkeypatch):
    path = tmp_path / "late.py"
    path.write_text(SOURCE + "\nraise OSError('late')\n")
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", str(path))
    for _ in range(2):
        with pytest.raises(ValueError, match="got an error: late"):
            tasks()


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "1 +"])
def test_a_file_that_cannot_be_run_is_named(text, tmp_path, monkeypatch, capsys):
    path = tmp_path / "broken.py"
    path.write_text(text)
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", str(path))
    assert main(["train", "decay", "--units", "2"]) == 1
    assert f"CONTEXTUAL_RNN_TASKS: expected Python that registers tasks in {path}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=str(path)):  # each time, not only the first
        tasks()
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", str(tmp_path / "nowhere.py"))
    with pytest.raises(ValueError, match="nowhere"):
        tasks()

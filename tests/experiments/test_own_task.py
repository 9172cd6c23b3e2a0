"""A task and its measures from a user's file, through the registry alone: trained, swept, tabulated and reported."""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from tests.experiments.test_sweep import Serial

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import (
    DecayConfig,
    Measure,
    Metric,
    TaskEntry,
    TrainingConfig,
    config_from_dict,
    config_to_dict,
    entry_of,
    final,
    identity,
    register,
    registry,
    tasks,
)
from contextual_rnn.experiments.runs.folder import command, read_run
from contextual_rnn.experiments.sweeps import workers

FILE = Path(__file__).with_name("mean_task.py")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """As in a process that was started with CONTEXTUAL_RNN_TASKS; no other test knows the task."""
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", str(FILE))
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    monkeypatch.setattr(registry, "_LOADED", set())


def test_a_task_from_a_file_is_trained_swept_tabulated_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "local_workers", lambda count: Serial())
    words = ["sweep", "mean", "--units", "4", "--grid", "state=zero,warm", "--seeds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "median mean_error" in printed
    assert re.search(r"zero +2 +0 +[\d.e-]+ \([\d.e-]+ to [\d.e-]+\)", printed)
    assert "4 of 4 runs done" in printed
    assert main(["train", "mean", "--state", "zero", "--seed", "7", "--out", str(tmp_path / "single")]) == 0
    assert main(["results", str(tmp_path)]) == 0
    assert "median mean_error" in capsys.readouterr().out
    monkeypatch.delenv("CONTEXTUAL_RNN_TASKS")
    monkeypatch.setattr(registry, "_TASKS", {name: entry for name, entry in registry._TASKS.items() if name != "mean"})
    monkeypatch.setattr(registry, "_LOADED", set())
    assert main(["report", str(tmp_path)]) == 1
    assert (
        "of a file that CONTEXTUAL_RNN_TASKS names, got 'mean'; results and report take a FILE.py with"
        in capsys.readouterr().err
    )
    assert main(["report", str(FILE), str(tmp_path)]) == 0
    html = (tmp_path / "report.html").read_text()
    assert "<h2>The mean of a sequence</h2>" in html
    assert "Averages are hard." in html
    assert "2 seeds of each state." in html
    assert not re.search("Eq. 2a|Wenke|retrieval sequence|Starting weights|Deviations from the paper", html)
    for text in ("mean error", "epochs to close", "largest step", "gain over zero", ">warm<", "Error and share."):
        assert text in html
    assert json.loads((tmp_path / "single" / "config.json").read_text())["task"] == "mean"
    assert main(["generate", str(tmp_path / "single")]) == 1
    assert "expected a run of the decay task, got one of mean" in capsys.readouterr().err


def test_the_next_command_names_the_file_of_the_task_and_quotes_the_folder(tmp_path, monkeypatch, capsys, no_pictures):
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    monkeypatch.setattr(workers, "local_workers", lambda count: contextlib.nullcontext(Serial()))
    monkeypatch.setattr(registry, "_NAMED", {})
    folder = tmp_path / "my runs"
    assert main(["sweep", str(FILE), "--units", "2", "--grid", "state=warm", "--out", str(folder)]) == 0
    swept = capsys.readouterr().out
    assert main(["results", str(FILE), str(folder)]) == 0
    for printed in (swept, capsys.readouterr().out):
        *_, follows, empty, _, _, advice = printed.splitlines()
        assert (follows, empty) == (f"next: contextual-rnn report {FILE} '{folder}'", "")
        assert advice == f"To compare states: contextual-rnn sweep {FILE} --units 2 --grid state=zero,warm --seeds 5"
    assert main(shlex.split(follows.removeprefix("next: contextual-rnn "))) == 0
    assert main([*shlex.split(advice.partition("contextual-rnn ")[2]), "--out", str(tmp_path / "both")]) == 0


def test_the_recorded_command_names_the_file_of_the_task(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    monkeypatch.setattr(registry, "_NAMED", {})
    monkeypatch.chdir(FILE.parent)
    assert main(["train", FILE.name, "--units", "2", "--out", str(tmp_path / "run")]) == 0
    run = read_run(tmp_path / "run")
    assert run.result["command"] == f"contextual-rnn train {FILE.name} --units 2 --out {tmp_path / 'run'}"
    registry._NAMED.clear()  # as in a worker process, which has the variable alone
    assert command(run.config, "run") == f"contextual-rnn train {FILE} --units 2 --out run"


def test_a_file_on_the_command_line_is_its_task(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    monkeypatch.setattr(workers, "local_workers", lambda count: contextlib.nullcontext(Serial()))
    assert main(["train", str(FILE), "--state", "zero", "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"] == "mean"
    words = ["compare", str(FILE), "--arms", "warm", "--seeds", "2", "--out", str(tmp_path / "compare")]
    assert main(words) == 0
    answer = json.loads((tmp_path / "compare" / "answer.json").read_text())
    assert (set(answer["arms"]), answer["series"], answer["seeds"]) == ({"zero", "warm"}, 24, 2)
    assert capsys.readouterr().out.splitlines()[-3:] == answer["sentences"]
    assert main(["compare", str(FILE), "--seeds", "2"]) == 1
    assert "arms: expected the states to compare" in capsys.readouterr().err
    (tmp_path / "nothing.py").write_text("")
    assert main(["train", str(tmp_path / "nothing.py")]) == 1
    assert "task: expected a file that registers one task, got none" in capsys.readouterr().err


def test_the_task_of_the_page_is_trained_and_compared(tmp_path, monkeypatch, capsys):
    """docs/own-task.md."""
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", "")
    monkeypatch.setattr(workers, "local_workers", lambda count: contextlib.nullcontext(Serial()))
    page = (Path(__file__).parents[2] / "docs" / "own-task.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    file = tmp_path / "phase.py"
    file.write_text(code)
    sentences = {}
    for words in re.findall(r"^contextual-rnn (\w+) phase.py ([^#\n]*)", page, flags=re.MULTILINE):
        out = ["--out", str(tmp_path / words[0]), "--epochs", "1"]
        out = out[:2] if words[0] == "compare" else out
        assert main([words[0], str(file), *words[1].replace("--seeds 5", "--seeds 2").split(), *out]) == 0
        sentences[words[0]] = capsys.readouterr().out.splitlines()[-3:]
    assert sentences["sweep"][1].startswith("The gain in squared error over the zero state is ")
    answer = json.loads((tmp_path / "compare" / "answer.json").read_text())
    assert answer["verdict"] == "helps"
    assert answer["best"] == "context"
    assert answer["steps"] >= 1


def test_a_configuration_is_read_back_and_has_its_identity():
    config = config_from_dict({"task": "mean", "units": 5})
    assert config_to_dict(config)["units"] == 5
    assert entry_of(config).title == "The mean of a sequence"
    assert identity(config) != identity(config_from_dict({"task": "mean"}))
    with pytest.raises(TypeError, match="state: expected text, got 3"):
        config_from_dict({"task": "mean", "state": 3})


def test_a_measure_is_a_line_in_its_entry(monkeypatch, tmp_path):
    entry = tasks()["mean"]
    measure = Measure("smallest_error", lambda lines, last: min(line["mean_error"] for line in lines))
    monkeypatch.setitem(registry._TASKS, "mean", dataclasses.replace(entry, measures=(measure,)))
    for seed in range(2):
        assert main(["train", "mean", "--seed", str(seed), "--out", str(tmp_path / str(seed))]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert "smallest error" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda lines, last: None, "got a NoneType"),
        (lambda lines, last: "3", "got a str"),
        (lambda lines, last: True, "got a bool"),
        (lambda lines, last: 1 / 0, "got ZeroDivisionError: division by zero"),
    ],
)
def test_a_measure_that_is_no_number_is_named(value, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(workers, "local_workers", lambda count: contextlib.nullcontext(Serial()))
    entry = dataclasses.replace(tasks()["mean"], measures=(Measure("odd", value),))
    monkeypatch.setitem(registry._TASKS, "mean", entry)
    assert main(["train", "mean", "--out", str(tmp_path / "run")]) == 0
    expected = f"odd: expected a number from this measure of mean for {tmp_path / 'run'}, {message}"
    assert main(["results", str(tmp_path)]) == 1
    assert expected in capsys.readouterr().err
    monkeypatch.setitem(registry._TASKS, "mean", dataclasses.replace(entry, measures=()))
    assert main(["sweep", "mean", "--seeds", "1", "--out", str(tmp_path / "sweep")]) == 0


def test_a_measure_that_is_nan_in_all_runs_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(workers, "local_workers", lambda count: contextlib.nullcontext(Serial()))
    entry = dataclasses.replace(tasks()["mean"], measures=(Measure("odd", final("mean_eror")),))
    monkeypatch.setitem(registry._TASKS, "mean", entry)
    assert main(["train", "mean", "--out", str(tmp_path / "run")]) == 0
    assert main(["results", str(tmp_path)]) == 0
    assert "and the measure odd is nan in all that finished" in capsys.readouterr().out
    assert main(["compare", "mean", "--arms", "warm", "--seeds", "1", "--out", str(tmp_path / "compare")]) == 1
    assert re.search("odd: expected a number to choose by for .*, got nan", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (TaskEntry("decay", DecayConfig, print, "", (Metric("a", "a"),)), "name: expected one that no other task has"),
        (TaskEntry("a-b", DecayConfig, print, "", (Metric("a", "a"),)), "name: expected a task's name of letters"),
        (TaskEntry("empty", DecayConfig, print, "", ()), "metrics: expected at least one for empty"),
        (
            TaskEntry("mine", DecayConfig, print, "", (Metric("a", "a"),)),
            "config: expected a class of its own, got DecayConfig of decay",
        ),
    ],
)
def test_entries_that_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        register(entry)


@pytest.mark.parametrize("state", ["../../x", "a/b", "", "..", "zero\n", "-x"])
def test_a_state_is_a_plain_name(state):
    """It is part of the name of a run's folder."""
    with pytest.raises(ValueError, match=f"state: expected a name of letters.*, got {re.escape(repr(state))}"):
        config_from_dict({"task": "mean", "state": state})


def test_a_file_imports_modules_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "module_beside_the_task.py").write_text("UNITS = 3")
    path = tmp_path / "task.py"
    path.write_text(
        FILE.read_text().replace("units: int = 3", "from module_beside_the_task import UNITS\n    units: int = UNITS")
    )
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", str(path))
    assert "mean" in tasks()


def test_files_of_one_name_in_other_folders_are_other_tasks(tmp_path, monkeypatch):
    """Types of options are looked up in the module of their class, where their names may mean something else."""
    files = {}
    for name, states in {"one": '"zero", "warm"', "two": '"zero", "cold"'}.items():
        text = FILE.read_text().replace('name="mean"', f'name="{name}"').replace("state: str", "state: StateName")
        text = text.replace("\n\n@dataclass", f"\nStateName = Literal[{states}]\n\n\n@dataclass", 1)
        text = text.replace("import annotations\n", "import annotations\n\nfrom typing import Literal\n", 1)
        files[name] = tmp_path / name / "task.py"
        files[name].parent.mkdir()
        files[name].write_text(text.replace('= "warm"', '= "zero"'))
    monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", os.pathsep.join(map(str, files.values())))
    states = {name: get_args(get_type_hints(tasks()[name].config)["state"]) for name in files}
    assert states == {"one": ("zero", "warm"), "two": ("zero", "cold")}


def test_a_file_under_two_paths_is_one_file(tmp_path, monkeypatch, capsys):
    file = tmp_path / "task.py"
    file.write_text(FILE.read_text())
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.py").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    for path in ("task.py", f"{tmp_path}/folder/../task.py", "link.py"):
        monkeypatch.setenv("CONTEXTUAL_RNN_TASKS", os.pathsep.join(["task.py", path]))
        for word in ("task.py", str(file), path):
            assert main(["sweep", word, "--dry-run"]) == 0
            assert main(["report", word, "nowhere"]) == 1
            assert "folder: expected runs" in capsys.readouterr().err
        assert os.environ["CONTEXTUAL_RNN_TASKS"] == os.pathsep.join(["task.py", path])


def test_a_configuration_of_no_task_is_named():
    with pytest.raises(ValueError, match="config: expected the configuration of a registered task, got TrainingConfig"):
        entry_of(TrainingConfig())
    assert final("error")([], {"error": 2.0}) == 2.0

"""Sweeps: every run once, whatever happens to the workers; what fails is told and stops nothing else."""

import errno
import json
import multiprocessing
import os
import re
import signal
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool

import pyarrow.parquet
import pytest

from contextual_rnn import _whole_file
from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.runs import trainer as training_steps
from contextual_rnn.experiments.runs.folder import read_run, read_runs, versions
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.sweeps import sweep as module
from contextual_rnn.experiments.sweeps import workers
from contextual_rnn.experiments.sweeps.grid import combinations
from contextual_rnn.experiments.sweeps.sweep import folder_name, sweep
from contextual_rnn.experiments.sweeps.workers import local_workers

TINY = {"samples_per_period": 8, "units": 4, "epochs": 1}
CONFIGS = combinations(DecayConfig(**TINY), {"state": ["zero", "normal"]}, seeds=2)
WORDS = ["sweep", "decay", "--samples-per-period", "8", "--units", "4", "--epochs", "1", "--grid", "state=zero,normal"]


class Serial(Executor):
    """One after the other, in this process, when submitted."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            future.set_exception(error)
        return future


def files_of(folder, configs):
    """What must be the same wherever and however often a run was trained."""
    found = {}
    for config in configs:
        run = read_run(folder / folder_name(config))
        metrics = [{name: line[name] for name in line if name != "seconds"} for line in run.metrics]
        found[config] = (run.folder / "weights.safetensors").read_bytes(), metrics, run.result["final"]
    return found


def test_every_run_is_trained_once_and_then_skipped(tmp_path, monkeypatch):
    shown = []
    progress = sweep(CONFIGS, tmp_path, Serial(), watch=lambda p: shown.append((len(p.outcomes), p.running)))
    assert (progress.total, progress.skipped, progress.failed) == (4, 0, {})
    assert shown[-1] == (4, 0)
    assert {run.config for run in read_runs(tmp_path)} == set(CONFIGS)
    alone = train(CONFIGS[1], tmp_path.with_name("alone"))
    found = read_run(tmp_path / folder_name(CONFIGS[1]))
    assert found.result["final"] == alone.result["final"]
    assert progress.outcomes[folder_name(CONFIGS[1])].result == found.result

    monkeypatch.setattr("contextual_rnn.experiments.runs.train.train", lambda *_, **__: pytest.fail("trained again"))
    again = sweep(CONFIGS, tmp_path, Serial())
    assert again.skipped == 4
    assert again.outcomes.keys() == progress.outcomes.keys()


def test_a_run_that_raises_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    bad, broken = folder_name(CONFIGS[0]), True

    def sometimes(config, folder, **options):
        if folder.name == bad and broken:
            train(config, folder, progress=lambda *_: 1 / 0)
        return train(config, folder, **options)

    monkeypatch.setattr("contextual_rnn.experiments.runs.train.train", sometimes)
    progress = sweep(CONFIGS, tmp_path, Serial())
    assert progress.failed.keys() == {bad}
    assert "ZeroDivisionError" in progress.failed[bad]
    assert (tmp_path / bad / "error.txt").read_text() == progress.failed[bad]
    assert len(files_of(tmp_path, CONFIGS[1:])) == 3
    broken = False
    progress = sweep(CONFIGS, tmp_path, Serial())
    assert (progress.skipped, progress.failed) == (3, {})
    assert not (tmp_path / bad / "error.txt").exists()


def test_foreign_folders_and_broken_results_are_failures_that_touch_nothing(tmp_path):
    foreign, broken = (tmp_path / folder_name(config) for config in CONFIGS[:2])
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    train(CONFIGS[1], broken)
    (broken / "result.json").write_text("{")
    progress = sweep(CONFIGS, tmp_path, Serial())
    assert progress.failed.keys() == {foreign.name, broken.name}
    assert f"other files in {foreign}" in progress.failed[foreign.name]
    assert f"expected JSON in {broken / 'result.json'}" in progress.failed[broken.name]
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_a_folder_that_the_worker_does_not_share_is_named(tmp_path):
    elsewhere = tmp_path / "not shared"
    outcome = module.run_into([{"task": "decay", **TINY}], str(elsewhere), ["run"], 30, versions())[0]
    assert str(elsewhere) in outcome.error
    assert outcome.worker in outcome.error
    assert not elsewhere.exists()


def test_a_late_worker_with_other_versions_is_named_and_trains_nothing(tmp_path):
    sweep(CONFIGS[:1], tmp_path, Serial())
    names = [folder_name(CONFIGS[1])]
    options = [{"task": "decay", **TINY, "state": "zero", "seed": 1}]
    outcome = module.run_into(options, str(tmp_path), names, 30, versions() | {"torch": "1.0"})[0]
    assert "worker: expected" in outcome.error
    assert f"process {os.getpid()}" in outcome.error
    assert not (tmp_path / names[0]).exists()


def bytes_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("where", ["sweep", "run"])
def test_a_full_disk_names_the_file_and_leaves_what_has_finished(where, tmp_path, monkeypatch):
    sweep(CONFIGS[:1], tmp_path, Serial())
    before = bytes_of(tmp_path)

    def full(path, mode, **options):
        return open(
            "/dev/full" if where == "sweep" or "seed1" in str(path) else path, mode.replace("x", "w"), **options
        )

    with monkeypatch.context() as patched:
        patched.setattr(_whole_file, "open", full, raising=False)
        assert sweep(CONFIGS[:1], tmp_path, Serial()).skipped == 1, "writes nothing"
        if where == "sweep":
            with pytest.raises(OSError, match=f"No space left.*{tmp_path / 'sweep.json'}"):
                sweep(CONFIGS[:2], tmp_path, Serial())
        else:
            progress = sweep(CONFIGS[:2], tmp_path, Serial())
            path = tmp_path / folder_name(CONFIGS[1]) / "config.json"
            assert (
                f"could not be written: No space left on device: '{path}'" in progress.failed[folder_name(CONFIGS[1])]
            )
    after = bytes_of(tmp_path)
    assert {path: after[path] for path in before if path.name != "sweep.json"}.items() <= before.items()
    assert sweep(CONFIGS[:2], tmp_path, Serial()).failed == {}


def test_a_read_only_sweep_is_skipped_through_and_a_run_in_it_names_the_file(tmp_path, monkeypatch):
    """As another user sees it; root may write anywhere."""
    sweep(CONFIGS[:1], tmp_path, Serial())
    before = bytes_of(tmp_path)

    def refuse(path, mode, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(_whole_file, "open", refuse, raising=False)
    assert sweep(CONFIGS[:1], tmp_path, Serial()).skipped == 1
    with pytest.raises(OSError, match=f"could not be written: Permission denied: '{tmp_path / 'sweep.json'}'"):
        sweep(CONFIGS[:2], tmp_path, Serial())
    assert bytes_of(tmp_path) == before


def test_the_same_configuration_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="configs: expected every configuration once, got 1 twice"):
        sweep([*CONFIGS, CONFIGS[0]], tmp_path, Serial())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"executor": None}, TypeError, "executor: expected an Executor, such as that of `with local_workers"),
        ({"executor": local_workers(1)}, TypeError, "executor: expected an Executor, such as that of `with local_"),
        ({"retries": -1}, ValueError, "retries: expected an int of at least 0, got -1"),
        ({"stack": None}, TypeError, "stack: expected a positive int, got None"),
        ({"checkpoint_seconds": None}, TypeError, "checkpoint_seconds: expected a number of at least 0, got None"),
        ({"watch": None}, TypeError, "watch: expected a function, got NoneType"),
        ({"configs": CONFIGS[0]}, TypeError, "configs: expected a list of configurations, or a dict by name, got Deca"),
        ({"configs": {"run": 1}}, ValueError, "config: expected the configuration of a registered task, got int"),
        *(
            ({"configs": {name: CONFIGS[0]}}, ValueError, "configs: expected names of folders below the sweep's, got ")
            for name in ("../x", "a/../../x", "/x", "", ".", 1)
        ),
    ],
)
def test_arguments_that_are_refused(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        sweep(**{"configs": CONFIGS, "folder": tmp_path, "executor": Serial(), **options})
    assert not list(tmp_path.iterdir())


class Losing(Serial):
    """Loses the process of each run some times before it works."""

    def __init__(self, times):
        self.times = {folder_name(config): times for config in CONFIGS}

    def submit(self, fn, /, *args, **kwargs):
        name = args[2][0]
        self.times[name] -= 1
        if self.times[name] >= 0:
            future = Future()
            future.set_exception(BrokenProcessPool("a process in the pool was terminated abruptly"))
            return future
        return super().submit(fn, *args, **kwargs)


def test_lost_workers_are_replaced_so_often_and_no_more(tmp_path):
    progress = sweep(CONFIGS, tmp_path / "twice", Losing(2), retries=2)
    assert (progress.retried, progress.failed) == (8, {})
    progress = sweep(CONFIGS, tmp_path / "thrice", Losing(3), retries=2)
    assert len(progress.failed) == 4
    assert all("BrokenProcessPool" in error for error in progress.failed.values())


def test_a_process_killed_in_the_middle_is_made_up_for(tmp_path, quick_workers):
    configs = [DecayConfig(**TINY | {"epochs": 30, "samples_per_period": 160}, seed=seed) for seed in range(3)]
    killed = []

    def kill_once(progress):
        if not killed and any((tmp_path / "killed").glob("*/checkpoint.safetensors")):
            killed.append(next(iter(multiprocessing.active_children())).pid)
            os.kill(killed[0], signal.SIGKILL)

    with local_workers(2) as executor:
        progress = sweep(configs, tmp_path / "killed", executor, checkpoint_seconds=0, watch=kill_once)
    assert (progress.retried, progress.failed) == (1, {})
    sweep(configs, tmp_path / "serial", Serial())
    assert files_of(tmp_path / "killed", configs) == files_of(tmp_path / "serial", configs)
    assert not multiprocessing.active_children()


def test_the_command_trains_tells_and_is_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "local_workers", lambda count: Serial())
    assert main([*WORDS, "--seeds", "2", "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 5
    assert all(line.startswith("to train  runs/sweep-decay/decay-") for line in shown[:4])
    assert re.fullmatch(r"4 runs, 4 to train: about \d+ s of training, \d+ s with 2 side by side", shown[4])
    assert not (tmp_path / "runs").exists()
    assert main([*WORDS[:-1], "units=4,5", "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in shown[:2]] == ["units=4", "units=5"]
    assert main([*WORDS[:-2], "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 run, 1 to train: ")

    assert main([*WORDS, "--seeds", "2"]) == 0
    header, *rows, last, follows, empty, first, _, third = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["state", "seeds", "diverged"]
    assert [row.split()[:3] for row in rows] == [["zero", "2", "0"], ["normal", "2", "0"]]
    assert last == "sweep: runs/sweep-decay: 4 of 4 runs done, 0 of them diverged"
    assert (follows, empty) == ("next: contextual-rnn report runs/sweep-decay", "")
    assert first.startswith("In the decay task a normal state predicts the next step")
    assert third == "These are medians over 2 seeds, too few for a small difference to be seen."

    (tmp_path / "grid.toml").write_text('state = ["zero", "normal"]\nlearning_rate = [1e30, 2e-4]')
    words = [*WORDS[:-2], "--grid-file", "grid.toml", "--seeds", "2", "--json"]
    assert main(words) == 0, "divergence is an outcome"
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["skipped"], len(told["diverged"]), told["failed"]) == (8, 4, 4, {})
    assert len(told["summary"]) == 4
    assert len(told["answer"]) == 3

    foreign = tmp_path / "runs" / "sweep-decay" / folder_name(DecayConfig(**TINY, state="free"))
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    assert main([*WORDS[:-1], "state=zero,free"]) == 1
    assert f"failed: {foreign.relative_to(tmp_path)}: ValueError: folder: " in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "local_workers", lambda count: Serial())
    step, steps = training_steps.Training.step, iter(range(100))

    def interrupted(self, k):
        if next(steps) in (2, 3):
            raise KeyboardInterrupt
        return step(self, k)

    monkeypatch.setattr(training_steps.Training, "step", interrupted)
    for _ in range(2):  # the second of one process has a line too
        assert main([*WORDS, "--seeds", "2"]) == 130
        assert "interrupted with 2 of 4 runs done; the same command goes on" in capsys.readouterr().err
    assert main([*WORDS, "--seeds", "2"]) == 0


def test_results_are_read_while_more_are_written(tmp_path, capsys, no_pictures):
    sweep(CONFIGS, tmp_path, Serial())
    begun = tmp_path / folder_name(CONFIGS[0])
    (begun / "result.json").unlink()
    nothing_yet = tmp_path / "decay-just-made"
    nothing_yet.mkdir()
    diverged = train(DecayConfig(**TINY, learning_rate=1e30), tmp_path / "diverged")
    assert main(["results", str(tmp_path)]) == 0
    assert "normal  2      0" in capsys.readouterr().out
    rows = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    by_folder = {row["folder"]: row for row in rows}
    assert len(by_folder) == len(rows) == 5
    assert by_folder[str(begun)]["status"] == "unfinished"
    assert by_folder[str(begun)]["final.epoch"] is None
    assert by_folder[str(diverged.folder)]["status"] == "diverged"
    run = read_run(tmp_path / folder_name(CONFIGS[3]))
    row = by_folder[str(run.folder)]
    assert (row["status"], row["state"], row["seed"], row["units"]) == ("finished", "normal", 1, 4)
    assert row["final.validation_squared_error"] == run.result["final"]["validation_squared_error"]
    assert row["epochs.validation_squared_error"] == [line["validation_squared_error"] for line in run.metrics]
    assert main(["report", str(tmp_path)]) == 0


def test_ten_thousand_finished_runs_are_gathered_by_one_look_at_each(tmp_path, monkeypatch):
    class Done(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result([module.Outcome({"final": {}})])
            return future

    configs = combinations(DecayConfig(**TINY), {}, seeds=10_000)
    looks = []
    monkeypatch.setattr(module, "_outcomes", lambda future, count: looks.append(future) or future.result())
    monkeypatch.setattr(module, "WATCH_SECONDS", 1e6)  # on a machine as slow as any, all end within one watch
    watches = []
    progress = sweep(configs, tmp_path, Done(), watch=watches.append)
    assert len(looks) == len(progress.outcomes) == 10_000
    assert len(watches) == 2, "each of which asks all ten thousand whether they run"

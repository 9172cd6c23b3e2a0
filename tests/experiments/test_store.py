"""Runs in an object store: of fsspec's file systems the one in memory, and file:// for what several processes share."""

import json
import multiprocessing
import os
import signal

import fsspec
import pyarrow.parquet
import pytest
from tests.experiments.test_sweep import TINY, Serial, files_of
from tests.killed import ended, started

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.runs import trainer as training_steps
from contextual_rnn.experiments.runs.folder import read_run
from contextual_rnn.experiments.runs.store import Store, below, place_of, readable
from contextual_rnn.experiments.runs.train import train, train_at
from contextual_rnn.experiments.sweeps import workers
from contextual_rnn.experiments.sweeps.grid import combinations
from contextual_rnn.experiments.sweeps.sweep import folder_name, sweep
from contextual_rnn.experiments.sweeps.workers import local_workers

CONFIG = DecayConfig(**TINY | {"epochs": 3, "samples_per_period": 32, "batch_size": 16}, state="normal")
CONFIGS = combinations(CONFIG, {}, seeds=3)
WORDS = ["sweep", "decay", "--samples-per-period", "8", "--units", "4", "--epochs", "1", "--grid", "state=zero,normal"]
FINISHED = {"config.json", "metrics.jsonl", "weights.safetensors", "result.json"}


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    yield f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/store"
    fsspec.filesystem("memory").store.clear()


def stopped(url, after):
    """A run that is interrupted after so many steps, with a checkpoint after each."""

    def progress(step, total, metrics):
        if step > after:
            raise InterruptedError

    with pytest.raises(OSError, match=url):
        train_at(CONFIG, url, checkpoint_seconds=0, progress=progress)


def files(url, name="run"):
    store = Store(below(url, name))
    return {name: store._files.cat_file(f"{store._root}/{name}") for name in store.names()}


def test_a_run_has_the_files_of_one_on_a_disk(url, tmp_path):
    run, alone = train_at(CONFIG, f"{url}/run"), train(CONFIG, tmp_path / "alone")
    found = files(url)
    assert found.keys() == FINISHED
    for name in ("config.json", "weights.safetensors"):
        assert found[name] == (alone.folder / name).read_bytes()
    result = json.loads(found["result.json"])
    assert result == run.result
    assert result["final"] == alone.result["final"]
    assert result["command"].endswith(f"--out {url}/run")
    again = train_at(CONFIG, f"{url}/run", progress=lambda *_: pytest.fail("trained again"))
    assert again.result == result
    assert files(url) == found


def test_another_worker_goes_on_from_the_store_to_the_same_bytes(url, tmp_path, monkeypatch):
    stopped(f"{url}/run", 13)
    assert files(url).keys() == FINISHED - {"result.json"} | {"checkpoint.safetensors"}
    trained, step = [], training_steps.Training.step
    monkeypatch.setattr(training_steps.Training, "step", lambda self, k: trained.append(k) or step(self, k))
    run = train_at(CONFIG, f"{url}/run")
    assert trained == list(range(13, run.result["final"]["step"]))
    alone = train(CONFIG, tmp_path / "alone")
    assert run.result["final"] == alone.result["final"]
    with readable(url) as folder:
        assert files_of_one(folder / "run") == files_of_one(alone.folder)
    assert files(url).keys() == FINISHED


def files_of_one(folder):
    run = read_run(folder)
    metrics = [{name: line[name] for name in line if name != "seconds"} for line in run.metrics]
    return (folder / "weights.safetensors").read_bytes(), metrics


def test_what_is_not_this_run_is_refused_by_its_url_and_left_alone(url):
    train_at(CONFIG, f"{url}/run")
    before = files(url)
    with pytest.raises(ValueError, match=f"{url}/run.*differs in seed"):
        train_at(CONFIGS[1], f"{url}/run")
    assert files(url) == before
    Store(f"{url}/thesis").write("thesis.tex", b"years of work")
    with pytest.raises(ValueError, match=f"other files in {url}/thesis"):
        train_at(CONFIG, f"{url}/thesis")
    assert files(url, "thesis") == {"thesis.tex": b"years of work"}
    stopped(f"{url}/damaged", 3)
    checkpoint = files(url, "damaged")["checkpoint.safetensors"]
    Store(f"{url}/damaged").write("checkpoint.safetensors", checkpoint[:-7])
    with pytest.raises(ValueError, match=rf"{url}/damaged.*checkpoint: expected one"):
        train_at(CONFIG, f"{url}/damaged")
    assert files(url, "damaged")["checkpoint.safetensors"] == checkpoint[:-7]


def test_a_store_that_fails_names_the_run_and_keeps_what_it_has(tmp_path, monkeypatch):
    url, put = "memory://fails/run", Store.write

    def full(self, name, data):
        if name == "result.json":
            raise OSError("no space left")
        put(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", full)
        with pytest.raises(OSError, match=f"{url}.*no space left"):
            train_at(CONFIG, url)
    assert "result.json" not in Store(url).names()
    assert train_at(CONFIG, url).result["final"] == train(CONFIG, tmp_path / "alone").result["final"]


def test_the_command_sweeps_reports_and_sums_up(url, tmp_path, monkeypatch, capsys, no_pictures):
    monkeypatch.setattr(workers, "local_workers", lambda count: Serial())
    words = [*WORDS, "--seeds", "2", "--out", url]
    assert main([*words, "--dry-run"]) == 0
    assert f"to train  {url}/decay-zero-seed0-" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["folder"], told["runs"], told["skipped"], told["failed"]) == (url, 4, 0, {})
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 4
    assert main(["results", url]) == 0
    assert main(["report", url]) == 0
    printed = capsys.readouterr().out
    assert f"results: {url}/results.parquet\nnext: contextual-rnn report {url}\n\nIn the decay task a normal" in printed
    assert printed.endswith(f"report: {url}/report.html\n")
    store = Store(url)
    assert {"results.parquet", "report.html", "summary.json", "sweep.json"} <= set(store.names())
    rows = pyarrow.parquet.read_table(store._files.open(f"{store._root}/results.parquet")).to_pylist()
    assert {row["folder"] for row in rows} == {name.split("/")[0] for name in store.names() if "/" in name}


def test_a_run_that_raises_leaves_its_traceback_in_the_store(url, monkeypatch):
    step = training_steps.Training.step
    with monkeypatch.context() as patched:
        patched.setattr(training_steps.Training, "step", lambda self, k: step(self, k) if k < 3 else 1 / 0)
        progress = sweep([CONFIG], url, Serial(), checkpoint_seconds=0)
    name = folder_name(CONFIG)
    assert "ZeroDivisionError" in progress.failed[name]
    assert files(url, name)["error.txt"].decode() == progress.failed[name]
    assert sweep([CONFIG], url, Serial()).failed == {}
    assert files(url, name).keys() == FINISHED


def test_processes_that_share_a_store_and_one_that_is_killed(tmp_path, quick_workers):
    url, killed = f"file://{tmp_path}/store", []

    def kill_once(progress):
        if not killed and any(name.endswith("checkpoint.safetensors") for name in Store(url).names()):
            killed.append(next(iter(multiprocessing.active_children())).pid)
            os.kill(killed[0], signal.SIGKILL)

    configs = combinations(DecayConfig(**TINY | {"epochs": 30, "samples_per_period": 160}), {}, seeds=2)
    with local_workers(1) as executor:
        progress = sweep(configs, url, executor, checkpoint_seconds=0.02, watch=kill_once)
    assert (progress.retried, progress.failed) == (1, {})
    sweep(configs, tmp_path / "serial", Serial())
    with readable(url) as folder:
        assert files_of(folder, configs) == files_of(tmp_path / "serial", configs)
    assert not [name for name in Store(url).names() if "writing" in name and "result" in name]


@pytest.mark.parametrize("moment", range(3))
def test_killed_while_files_are_put(tmp_path, moment):
    url, count = f"file://{tmp_path}/store/run", 5 + 7 * moment

    def die():
        put, left = Store.write, [count]

        def half(self, name, data):
            left[0] -= 1
            if left[0] == 0:
                self._files.makedirs(self._root, exist_ok=True)
                self._files.pipe_file(f"{self._root}/{name}.0000.writing", data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            put(self, name, data)

        Store.write = half
        train_at(CONFIG, url, checkpoint_seconds=0)

    assert ended(started(die)) == -signal.SIGKILL
    train_at(CONFIG, url)
    train(CONFIG, tmp_path / "alone")
    with readable(url) as folder:
        assert files_of_one(folder) == files_of_one(tmp_path / "alone")


def test_a_protocol_without_its_package_says_which(capsys):
    words = ["train", "decay", "--samples-per-period", "8", "--epochs", "1", "--out"]
    assert main([*words, "nosuch://bucket/run"]) == 1
    assert "nosuch" in capsys.readouterr().err


@pytest.mark.parametrize("place", [None, 3, b"runs"])
def test_what_is_no_place_is_refused_and_nothing_is_written(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match="folder: expected a folder or its URL, got"):
        sweep([DecayConfig(**TINY)], place, Serial())
    assert not list(tmp_path.iterdir())


def test_places():
    assert place_of("s3://bucket/sweep/") == "s3://bucket/sweep"
    assert below("s3://bucket/sweep", "run") == "s3://bucket/sweep/run"
    assert str(below(place_of("runs/sweep"), "run")) == os.path.join("runs", "sweep", "run")

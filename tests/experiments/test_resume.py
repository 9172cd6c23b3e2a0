"""A run that is killed at any moment goes on to the same bits; what it cannot go on from is refused by name.

`CONTEXTUAL_RNN_KILLS=20 pytest tests/experiments/test_resume.py` kills each run at twenty random moments.
"""

import functools
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.killed import PROCESSES, ended, started, train_and_die, train_as_nobody

from contextual_rnn import _whole_file
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig, identity
from contextual_rnn.experiments.runs import checkpoint
from contextual_rnn.experiments.runs import train as training
from contextual_rnn.experiments.runs.folder import read_run
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.runs.weights import load_model

KILLS = int(os.environ.get("CONTEXTUAL_RNN_KILLS", "3"))
CONFIGS = {
    "retrieval": RetrievalConfig(
        state="context", leaves="h+a", train_samples=320, validation_samples=64, batch_size=16, units=8, epochs=3
    ),
    "decay": DecayConfig(state="normal", samples_per_period=64, units=8, batch_size=16, epochs=3),
}
WEIGHTS, CHECKPOINT, METRICS = "weights.safetensors", "checkpoint.safetensors", "metrics.jsonl"
WRITES = {"before it writes": (training, "weights_bytes"), "while it writes": (os, "replace")}


@pytest.fixture(scope="module", params=CONFIGS)
def undisturbed(request, tmp_path_factory):
    return train(CONFIGS[request.param], tmp_path_factory.mktemp("undisturbed") / request.param)


def without_seconds(run):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in run.metrics]


def assert_same(run, expected):
    assert (run.folder / WEIGHTS).read_bytes() == (expected.folder / WEIGHTS).read_bytes()
    assert without_seconds(run) == without_seconds(expected), "no gap, nothing twice"
    assert run.result["final"] == expected.result["final"]
    seconds = [line["seconds"] for line in run.metrics]
    assert seconds == sorted(seconds), "time goes on where it stopped"
    files = {path.name for path in run.folder.iterdir()}
    assert files == {"config.json", METRICS, WEIGHTS, "result.json"}, "a checkpoint or half a file was left behind"


@pytest.mark.parametrize("moment", range(KILLS))
def test_killed_at_a_random_moment(undisturbed, tmp_path, moment):
    # Checkpoints after every step, which is where most moments then fall.
    until = random.Random(f"{undisturbed.task} {moment}").random() * 2 * undisturbed.result["seconds"]
    for attempt in range(20):  # a moment after its end would show nothing
        folder = tmp_path / str(attempt)
        process = started(train, undisturbed.config, folder, checkpoint_seconds=0)
        end = time.monotonic() + 60
        while not (folder / "config.json").exists() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(until)
        os.kill(process.pid, signal.SIGKILL)
        ended(process)
        if not (folder / "result.json").exists():
            break
        until *= 0.7
    else:
        pytest.fail("never killed in time")
    print(f"killed after {until:.3f} s with {sorted(path.name for path in folder.iterdir())}")
    assert_same(train(undisturbed.config, folder), undisturbed)


@pytest.mark.parametrize(
    ("place", "file", "count"),
    [
        ("half", CHECKPOINT, 30),
        ("before", CHECKPOINT, 1),
        ("after", CHECKPOINT, 20),
        ("half", "config.json", 1),
        ("after", "config.json", 1),
        ("after", WEIGHTS, 3),
        ("half", METRICS, 2),
        ("after", METRICS, 3),
        ("before", "result.json", 1),
        ("after", "result.json", 1),
    ],
)
@pytest.mark.parametrize("undisturbed", ["decay"], indirect=True)
def test_killed_while_a_file_is_written(undisturbed, tmp_path, place, file, count):
    assert ended(started(train_and_die, undisturbed.config, tmp_path, 0, place, file, count)) == -signal.SIGKILL
    finished = read_run(tmp_path).result is not None if (tmp_path / "config.json").exists() else False
    assert finished == ((place, file) == ("after", "result.json"))
    run = train(undisturbed.config, tmp_path)
    if not finished:
        assert_same(run, undisturbed)


def test_a_run_that_is_killed_again_and_again_gets_there(undisturbed, tmp_path):
    kills = 0
    while not (tmp_path / "result.json").exists():
        code = ended(started(train_and_die, undisturbed.config, tmp_path, 0, "after", CHECKPOINT, 25))
        assert code in (0, -signal.SIGKILL)
        kills += code == -signal.SIGKILL
    assert kills == undisturbed.result["final"]["step"] // 25
    assert_same(read_run(tmp_path), undisturbed)


def stop_after(config, folder, steps):
    def progress(step, total, metrics):
        if step > steps:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, folder, checkpoint_seconds=0, progress=progress)


def test_resuming_goes_on_rather_than_starts_again(undisturbed, tmp_path, monkeypatch):
    stop_after(undisturbed.config, tmp_path, 7)
    trained, step = [], Training.step
    monkeypatch.setattr(Training, "step", lambda self, k: trained.append(k) or step(self, k))
    assert_same(train(undisturbed.config, tmp_path), undisturbed)
    assert trained == list(range(7, undisturbed.result["final"]["step"]))


def test_wall_clock_jumps_have_no_say(undisturbed, tmp_path, monkeypatch):
    clock = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: clock.uniform(-1e9, 1e9))
    stop_after(undisturbed.config, tmp_path, 30)
    assert_same(train(undisturbed.config, tmp_path), undisturbed)


def test_checkpoints_are_due_by_time_and_never_cost_more_than_a_hundredth(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    timer = checkpoint.Timer(30)
    due = []
    for now in range(10_000):
        if timer.due():
            due.append(now)
            timer.written(0.01 if now < 100 else 1)
    assert due[:4] == [30, 60, 90, 120]
    assert {later - now for now, later in itertools.pairwise(due[3:])} == {100}


class Malicious:
    def __reduce__(self):
        return os._exit, (66,)


def damaged(kind, good: bytes, other: bytes) -> bytes:
    flipped = bytearray(good)
    flipped[-5] ^= 1
    tensors = safetensors.torch.load(good)
    return {
        "empty": b"",
        "cut off": good[: len(good) // 2],
        "one bit": bytes(flipped),
        "no checkpoint": safetensors.torch.save(tensors),
        "of another run": other,
        "a malicious pickle": pickle.dumps(Malicious()),
        "text": b"years of work",
    }[kind]


@pytest.mark.parametrize(
    "kind", ["empty", "cut off", "one bit", "no checkpoint", "of another run", "a malicious pickle", "text"]
)
def test_a_checkpoint_that_is_none_is_refused_by_name_and_left_alone(tmp_path, kind):
    config = CONFIGS["decay"]
    stop_after(config, tmp_path / "run", 3)
    stop_after(DecayConfig(**vars(config) | {"seed": 1}), tmp_path / "other", 3)
    path = tmp_path / "run" / CHECKPOINT
    bad = damaged(kind, path.read_bytes(), (tmp_path / "other" / CHECKPOINT).read_bytes())
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=f"checkpoint: expected one that this run has written in {path}"):
        train(config, tmp_path / "run")
    assert path.read_bytes() == bad
    path.unlink()
    assert train(config, tmp_path / "run").result is not None


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path):
    config = CONFIGS["decay"]
    stop_after(config, tmp_path, 3)
    path = tmp_path / CHECKPOINT
    written = checkpoint.load(path, identity(config))
    del written.tensors["adam.exp_avg"]
    checkpoint.save(path, written, identity(config))
    with pytest.raises(ValueError, match=f"checkpoint: expected the tensors of this run in {path}"):
        train(config, tmp_path)


def test_weights_that_are_a_malicious_pickle_are_refused(tmp_path):
    run = train(CONFIGS["decay"], tmp_path)
    for bad in (pickle.dumps(Malicious()), b"\x80" + torch.zeros(1).numpy().tobytes()):
        (tmp_path / WEIGHTS).write_bytes(bad)
        with pytest.raises(ValueError, match="run: expected the weights of its configuration"):
            load_model(run)
    torch.save(Malicious(), tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="run: expected the weights of its configuration"):
        load_model(run)


def test_a_full_disk_names_the_file_and_keeps_what_was_written(undisturbed, tmp_path, monkeypatch):
    stop_after(undisturbed.config, tmp_path, 5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    # A device on which every write fails as on a full disk.
    full = functools.partial(os.open, "/dev/full", os.O_WRONLY)
    monkeypatch.setattr(_whole_file, "open", lambda path, mode, **o: os.fdopen(full(), "wb", **o), raising=False)
    with pytest.raises(OSError, match=f"could not be written: No space left.*{tmp_path}"):
        train(undisturbed.config, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    monkeypatch.undo()
    assert_same(train(undisturbed.config, tmp_path), undisturbed)


def test_a_file_that_another_takes_for_a_leftover_is_written_again(tmp_path, monkeypatch):
    rename, taken = os.replace, []

    def replace(source, target):
        if len(taken) < 2:
            taken.append(source)
            _whole_file.remove_leftovers(tmp_path)
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    _whole_file.write_whole(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    taken.clear()
    monkeypatch.setattr(os, "replace", lambda source, target: Path(source).unlink() or rename(source, target))
    with pytest.raises(OSError, match=f"could not be written: No such file or directory: '{tmp_path / 'file'}'"):
        _whole_file.write_whole(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(OSError, match="could not be written: No such file"):
        _whole_file.write_whole(tmp_path / "gone" / "file", b"new")


def test_a_read_only_folder_is_named(tmp_path):
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    tmp_path.chmod(0o555)
    receiver, sender = PROCESSES.Pipe(duplex=False)
    ended(started(train_as_nobody, CONFIGS["decay"], tmp_path / "run", sender))
    assert f"Permission denied: '{tmp_path / 'run'}'" in receiver.recv()


def test_broken_json_is_named(tmp_path):
    config = CONFIGS["decay"]
    train(config, tmp_path)
    for name in ("config.json", "result.json"):
        good = (tmp_path / name).read_text()
        for bad in (good[: len(good) // 2], "[]", "\udcff"):
            (tmp_path / name).write_text(bad, errors="surrogateescape")
            with pytest.raises(ValueError, match=f"file: expected .*{tmp_path / name}"):
                train(config, tmp_path)
        (tmp_path / name).write_text(good)


def test_a_worker_that_was_thought_dead_leaves_the_result_of_the_other(undisturbed, tmp_path):
    done = []

    def finish_meanwhile(step, total, metrics):
        if step == 5 and not done:
            done.append(train(undisturbed.config, tmp_path))

    run = train(undisturbed.config, tmp_path, checkpoint_seconds=0, progress=finish_meanwhile)
    assert run == done[0]
    assert_same(run, undisturbed)


def test_identity_tells_configurations_apart_and_is_the_same_everywhere():
    base = DecayConfig()
    assert identity(base) == identity(DecayConfig(seed=0, learning_rate=2e-4))
    assert identity(DecayConfig(clip_norm=5)) == identity(DecayConfig(clip_norm=5.0))
    others = [DecayConfig(seed=1), DecayConfig(epochs=66), DecayConfig(threads=2), RetrievalConfig()]
    assert len({identity(config) for config in [base, *others]}) == 5
    assert identity(others[0]) == "dc5df3dcacc5", "or every sweep there is would start again"


def test_a_changed_default_is_refused_and_a_new_option_is_not(tmp_path):
    config = CONFIGS["decay"]
    run = train(config, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in written.items() if k != "min_scale"}))
    assert train(config, tmp_path) == run, "from before there was such an option"
    (tmp_path / "config.json").write_text(json.dumps(written | {"scale": 0.5}))
    with pytest.raises(ValueError, match="differs in scale"):
        train(config, tmp_path)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_bad_checkpoint_seconds_are_refused(tmp_path, seconds):
    with pytest.raises(ValueError, match="checkpoint_seconds: expected a number of at least 0"):
        training.train(CONFIGS["decay"], tmp_path, checkpoint_seconds=seconds)


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize("moment", WRITES)
def test_a_worker_that_was_thought_dead_leaves_what_another_has_finished(
    undisturbed, tmp_path, monkeypatch, epoch, moment
):
    folder, (module, name) = tmp_path / "run", WRITES[moment]
    original, called = getattr(module, name), []

    def finished_by_another(*arguments):
        if name == "weights_bytes" or arguments[1] == folder / WEIGHTS:
            called.append(arguments)
        if len(called) == epoch + 1 and not (folder / "result.json").exists():
            for file in (WEIGHTS, METRICS, "result.json"):
                shutil.copy(undisturbed.folder / file, folder / file)
        return original(*arguments)

    monkeypatch.setattr(module, name, finished_by_another)
    result = train(CONFIGS[undisturbed.task], folder).result
    assert_same(read_run(folder), undisturbed)
    assert result == undisturbed.result


def test_a_finished_run_is_put_right_after_a_worker_that_was_thought_dead(undisturbed, tmp_path, monkeypatch):
    """Which wrote its own between the last weights and the result."""
    folder, write = tmp_path / "run", training.write_json

    def written_over(path, content):
        if path.name == "result.json":
            (folder / WEIGHTS).write_bytes(b"of an epoch before")
            (folder / METRICS).write_bytes(b"{}\n")
        write(path, content)

    monkeypatch.setattr(training, "write_json", written_over)
    train(CONFIGS[undisturbed.task], folder)
    assert_same(read_run(folder), undisturbed)

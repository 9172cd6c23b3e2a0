"""Ctrl-C and SIGTERM: a command ends with one line, leaves no process behind, and the same command goes on.

The commands run in forks of this process, which spare them the import of PyTorch, each in a process group of its own:
a terminal sends Ctrl-C to such a group.
"""

import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from tests.experiments.test_cluster import until
from tests.experiments.test_sweep import Serial, files_of
from tests.killed import PROCESSES, SECONDS, ended, started
from torch import distributed

from contextual_rnn.experiments import __main__ as command
from contextual_rnn.experiments import interrupts, progress, reproduce
from contextual_rnn.experiments.cli import info
from contextual_rnn.experiments.config import DecayConfig, identity
from contextual_rnn.experiments.report import html
from contextual_rnn.experiments.runs import checkpoint, published
from contextual_rnn.experiments.runs import folder as run_folder
from contextual_rnn.experiments.runs.folder import CHECKPOINT, CONFIG, RESULT, WEIGHTS
from contextual_rnn.experiments.runs.train import follow, train
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.sweeps import workers
from contextual_rnn.experiments.sweeps.grid import combinations
from contextual_rnn.experiments.sweeps.sweep import folder_name, sweep
from contextual_rnn.experiments.training.data_parallel import Group

OPTIONS = {"samples_per_period": 160, "units": 8, "batch_size": 16}
CONFIG_1 = DecayConfig(**OPTIONS, epochs=4)
CONFIGS = combinations(DecayConfig(**OPTIONS, epochs=12), {}, seeds=3)
WORDS = ["decay", "--samples-per-period", "160", "--units", "8", "--batch-size", "16", "--epochs"]
STEPS = 200
LINE = r"contextual-rnn: interrupted {}; the same command goes on\n"


def do(words, folder, before):
    os.setsid()
    with open(folder / "stderr", "w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w")
    sys.argv = ["contextual-rnn", *words]
    interrupts.LIMIT_SECONDS = workers.STOP_SECONDS = 1000  # a command that only this ends is not to pass
    progress.SECONDS = 1000  # however slow the machine, no line of progress
    if before is not None:
        before()
    sys.exit(command.main())


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """What runs in the background of a script, or under nohup, ignores some signals, and so would its children."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def start(tmp_path):
    """Start a command; `before` is called in its process."""
    processes = []

    def begin(*words, before=None):
        processes.append(PROCESSES.Process(target=do, args=(words, tmp_path, before)))
        processes[-1].start()
        return processes[-1]

    yield begin
    for process in processes:
        if process.is_alive():
            kill(process, signal.SIGKILL)


def kill(process, number, *, group=True):
    (os.killpg if group else os.kill)(process.pid, number)


def assert_interrupted(process, folder, status, done):
    assert ended(process) == status
    printed = (folder / "stderr").read_text()
    assert re.fullmatch(LINE.format(done), printed), printed
    until(lambda: not group_exists(process.pid))
    assert not list(folder.rglob("*.writing"))


def group_exists(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def slow_steps():
    step = Training.step
    Training.step = lambda self, k: time.sleep(0.01) or step(self, k)


def endless_step(begun):
    """The first step writes the file `begun`, and never ends."""
    Training.step = lambda self, k: begun.touch() or threading.Event().wait()


def write_when_received(path):
    """Write a file once a signal has been received: another that comes before counts as the same."""

    def watch():
        until(interrupts.requested)
        path.touch()

    threading.Thread(target=watch, daemon=True).start()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(CONFIG_1, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_train_writes_a_checkpoint_and_goes_on(start, tmp_path, undisturbed, number):
    run = tmp_path / "run"

    def before():
        slow_steps()
        interrupts.REPEAT_SECONDS = 1000

    process = start("train", *WORDS, "4", "--out", str(run), before=before)
    until(lambda: (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) > 1)
    kill(process, number)
    kill(process, number)  # as `timeout` and torchrun repeat what the terminal sends
    assert_interrupted(process, tmp_path, 128 + number, rf"at step \d+ of {STEPS}")
    step = checkpoint.load(run / CHECKPOINT, identity(CONFIG_1)).step
    assert f"at step {step} of" in (tmp_path / "stderr").read_text()
    assert 0 < step < STEPS
    trained = train(CONFIG_1, run)
    assert trained.result["final"] == undisturbed.result["final"]
    assert (run / WEIGHTS).read_bytes() == (undisturbed.folder / WEIGHTS).read_bytes()


def test_a_second_ctrl_c_ends_at_once(start, tmp_path):
    def before():
        endless_step(tmp_path / "begun")
        write_when_received(tmp_path / "received")

    process = start("train", *WORDS, "4", "--out", str(tmp_path / "run"), before=before)
    until((tmp_path / "begun").exists)
    kill(process, signal.SIGINT)
    until((tmp_path / "received").exists)
    process.join(interrupts.REPEAT_SECONDS + 0.5)
    assert process.is_alive(), "it waits for the end of the step"
    kill(process, signal.SIGINT)
    assert_interrupted(process, tmp_path, 130, "before the first step")


def test_a_step_that_takes_too_long_is_not_waited_for(start, tmp_path):
    def before():
        endless_step(tmp_path / "begun")
        interrupts.LIMIT_SECONDS = 0.2

    process = start("train", *WORDS, "4", "--out", str(tmp_path / "run"), before=before)
    until((tmp_path / "begun").exists)
    kill(process, signal.SIGINT)
    assert_interrupted(process, tmp_path, 130, "before the first step")


def test_an_ignored_signal_stays_ignored(start, tmp_path):
    """As for a command under nohup, or in the background of a script."""

    def before():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        slow_steps()

    process = start("train", *WORDS, "1", "--out", str(tmp_path / "run"), before=before)
    until((tmp_path / "run" / WEIGHTS).exists)
    kill(process, signal.SIGINT)
    assert ended(process) == 0
    assert (tmp_path / "run" / RESULT).exists()


def test_an_interrupt_that_python_drops_ends_the_command(start, tmp_path):
    """It prints and forgets what is raised in a finalizer."""

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1000)

    def before():
        info.information = lambda: Finalized() and {"": ""}

    assert_interrupted(start("info", before=before), tmp_path, 130, "before it was done")


@pytest.mark.parametrize("words", ["report", "results", "generate"])
def test_commands_that_only_read(words, start, tmp_path):
    def before():
        def read(folder, *_):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)

        html.write_report = published.read_results = run_folder.read_run = read

    assert_interrupted(start(words, str(tmp_path), before=before), tmp_path, 143, "before it was done")


@pytest.mark.parametrize(
    ("name", "number", "seconds"), [("torch", "SIGINT", 1000), ("tyro", "SIGTERM", 1000), ("socket", "SIGINT", 0)]
)
def test_while_it_starts(name, number, seconds):
    """PyTorch takes seconds to import; while signals are not handled yet, which needs sockets, Ctrl-C waits."""
    code = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.{number})
            import time; time.sleep({seconds})
sys.meta_path.insert(0, Finder())
sys.argv = ["contextual-rnn", "info"]
from contextual_rnn.experiments.__main__ import main
sys.exit(main())
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert process.returncode == 128 + signal.Signals[number]
    assert re.fullmatch(LINE.format("before it began"), process.stderr), process.stderr


def test_other_programs_keep_their_own_ctrl_c(tmp_path):
    code = "import contextual_rnn.experiments.training, os, signal; os.kill(os.getpid(), signal.SIGINT)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert "KeyboardInterrupt" in process.stderr

    def progress(step, total, metrics):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as interrupt:
        train(CONFIG_1, tmp_path / "run", progress=progress)
    assert interrupt.type is KeyboardInterrupt


def begun(folder):
    return {path.parent.name for path in folder.glob(f"*/{CONFIG}")}


def results_in(folder):
    return len(list(folder.glob(f"*/{RESULT}")))


@functools.cache
def files_undisturbed(config):
    with tempfile.TemporaryDirectory() as folder:
        sweep([config], Path(folder), Serial())
        return files_of(Path(folder), [config])


def assert_goes_on(folder):
    """What was begun ends in the bytes that it would have had; the rest was never begun."""
    configs = [config for config in CONFIGS if folder_name(config) in begun(folder)]
    assert 0 < len(configs) < len(CONFIGS)
    sweep(configs, folder, Serial())
    for config in configs:
        assert files_of(folder, [config]) == files_undisturbed(config)


@pytest.mark.parametrize(
    ("processes", "number", "group"),
    [("1", signal.SIGINT, True), ("2", signal.SIGTERM, False), ("1", signal.SIGKILL, False)],
    ids=["Ctrl-C", "SIGTERM to the parent", "kill -9 of the parent"],
)
def test_a_sweep_begins_nothing_more_and_goes_on(start, tmp_path, processes, number, group):
    folder = tmp_path / "sweep"
    options = ["--seeds", "3", "--workers", processes, "--checkpoint-seconds", "0.05", "--out", str(folder)]
    process = start("sweep", *WORDS, "12", *options)
    until(lambda: any(folder.glob(f"*/{CHECKPOINT}")))
    kill(process, number, group=group)
    if number == signal.SIGKILL:
        assert ended(process) == -signal.SIGKILL
        until(lambda: not group_exists(process.pid))
    else:
        assert ended(process) == 128 + number
        assert_interrupted(process, tmp_path, 128 + number, f"with {results_in(folder)} of 3 runs done")
    assert_goes_on(folder)


def test_a_process_that_alone_gets_a_signal_is_replaced(quick_workers):
    with workers.local_workers(1) as executor:
        with pytest.raises(BrokenProcessPool):
            executor.submit(signal.raise_signal, signal.SIGTERM).result()
        assert executor.submit(os.getpid).result() != os.getpid()


def test_ctrl_c_while_processes_start(start, tmp_path):
    folder = tmp_path / "sweep"
    process = start("sweep", *WORDS, "12", "--seeds", "3", "--workers", "2", "--out", str(folder))
    until((folder / "sweep.json").exists)
    time.sleep(0.3)  # most likely they import PyTorch now
    kill(process, signal.SIGINT)
    assert ended(process) == 130
    assert_interrupted(process, tmp_path, 130, f"with {results_in(folder)} of 3 runs done")


def test_reproduce(start, tmp_path):
    def before():
        reproduce.runs_of = lambda preset: {folder_name(config): config for config in CONFIGS}

    folder = tmp_path / "runs"
    process = start("reproduce", "--workers", "1", "--out", str(folder), before=before)
    until(lambda: begun(folder))
    kill(process, signal.SIGINT)
    assert ended(process) == 130
    assert_interrupted(process, tmp_path, 130, f"with {results_in(folder)} of 3 runs done")
    assert_goes_on(folder)


@pytest.mark.parametrize("stack", [1, 3])
def test_runs_on_a_cluster_are_cancelled(tmp_path, stack, monkeypatch):
    """One that is being trained stops between two steps, after a checkpoint; others, of a stack too, never begin."""
    from distributed import LocalCluster

    monkeypatch.setattr(workers, "CONNECT_SECONDS", SECONDS)

    def interrupt(progress):
        if any(tmp_path.glob(f"*/{CHECKPOINT}")):
            raise KeyboardInterrupt

    with LocalCluster(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0", protocol="tcp"
    ) as cluster:
        with (
            pytest.raises(KeyboardInterrupt),
            workers.dask_workers(cluster.scheduler_address) as executor,
        ):
            sweep(CONFIGS, tmp_path, executor, stack=stack, checkpoint_seconds=0.05, watch=interrupt)
        (worker,) = cluster.workers.values()
        until(lambda: not worker.state.tasks)
    assert results_in(tmp_path) == 0
    assert_goes_on(tmp_path)


def together(rank, store, folder, stopped):
    """One of two processes that train a run; the one of rank `stopped` is interrupted after some steps."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    steps = iter(range(1000))

    def interrupted():
        return rank == stopped and next(steps) >= 20

    group = Group(rank, 2)
    try:
        if rank:
            follow(CONFIG_1, group, interrupted)
        else:
            train(CONFIG_1, folder, group=group, interrupted=interrupted)
    except interrupts.Interrupted:
        sys.exit(130)
    finally:
        distributed.destroy_process_group()


def test_two_processes_stop_after_the_same_step(tmp_path):
    """Whichever of them gets the signal; none is left waiting for the other."""

    def train_on_two(folder, stopped):
        store = tmp_path / f"store {folder.name} {stopped}"
        return [ended(each) for each in [started(together, rank, store, folder, stopped) for rank in range(2)]]

    assert train_on_two(tmp_path / "undisturbed", None) == [0, 0]
    assert train_on_two(tmp_path / "stopped", 0) == [130, 130]
    assert checkpoint.load(tmp_path / "stopped" / CHECKPOINT, identity(CONFIG_1)).step == 21
    assert train_on_two(tmp_path / "stopped", 1) == [130, 130]
    assert checkpoint.load(tmp_path / "stopped" / CHECKPOINT, identity(CONFIG_1)).step == 42
    assert train_on_two(tmp_path / "stopped", None) == [0, 0]
    assert (tmp_path / "stopped" / WEIGHTS).read_bytes() == (tmp_path / "undisturbed" / WEIGHTS).read_bytes()

"""One run on two processes: the loss curve of one process, to the last bits, and it goes on after a kill."""

import json
import os
import signal

import pytest
import torch
from tests import fresh
from tests.killed import ended, started
from torch import distributed

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.runs.folder import read_run
from contextual_rnn.experiments.runs.train import follow, train
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.training.data_parallel import ALONE, Group

# 150 sequences in batches of 37 end with one of 2; of three sequences one process has twice as many as the other.
CONFIGS = {
    "normal": DecayConfig(state="normal", kl_weight=1e-3, samples_per_period=30, units=8, batch_size=37, epochs=3),
    "zero": DecayConfig(state="zero", samples_per_period=4, units=8, batch_size=3, epochs=3),
    "fast weights": RetrievalConfig(
        state="normal", leaves="h+a", train_samples=75, validation_samples=20, batch_size=37, units=8, epochs=3
    ),
    "shuffled": RetrievalConfig(
        state="context", shuffled_context=True, train_samples=75, validation_samples=20, batch_size=37, units=8,
        epochs=3,
    ),
    "lstm": RetrievalConfig(network="lstm", train_samples=75, validation_samples=20, batch_size=37, units=8, epochs=3),
}  # fmt: skip
KILLED = DecayConfig(state="normal", samples_per_period=30, units=8, batch_size=15, epochs=4)


def process(rank, size, store, configs, folder, checkpoint_seconds=30.0, killed_after=None):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    group = Group(rank, size)

    def progress(step, total, metrics):
        if step == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)

    for name, config in configs.items():
        if rank:
            follow(config, group)
        else:
            train(config, folder / name, checkpoint_seconds=checkpoint_seconds, progress=progress, group=group)
    distributed.destroy_process_group()


def train_on(size, store, *arguments):
    return [ended(each) for each in [started(process, rank, size, store, *arguments) for rank in range(size)]]


def curves(run):
    return [{name: line[name] for name in line if name != "seconds"} for line in run.metrics]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert train_on(2, folder / "store", CONFIGS, folder) == [0, 0]
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_curve_is_that_of_one_process(name, on_two, tmp_path):
    """Sums over a batch come in another order, 1e-7 of a loss; some steps of Adam carry that on."""
    found, alone = read_run(on_two / name), train(CONFIGS[name], tmp_path)
    assert found.result["processes"] == 2
    assert "processes" not in alone.result
    assert len(found.metrics) == len(alone.metrics) == 4
    for line, expected in zip(curves(found), curves(alone), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    assert curves(found)[-1]["train_loss"] != pytest.approx(curves(found)[1]["train_loss"], rel=1e-3), "it learns"


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_the_whole_batch(name):
    """As two processes see them, one after the other; a wrong share of a draw or of a context would show."""
    config = CONFIGS[name]
    whole, half = Training(config), Training(config)
    batch = whole.batches[0]
    whole.task.differentiate(batch, torch.Generator().manual_seed(0), whole.optimizer)
    total = torch.zeros_like(whole.optimizer.gradient)
    for rank in (0, 1):
        rows = Group(rank, 2).rows(len(batch[0]))
        half.task.differentiate(batch, torch.Generator().manual_seed(0), half.optimizer, rows)
        total += half.optimizer.gradient * (rows.stop - rows.start) / len(batch[0])
    wanted = whole.optimizer.gradient
    torch.testing.assert_close(total, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_shares_are_the_whole_batch():
    for size in (2, 3, 5):
        for batch_size in (1, 2, 37):
            rows = [row for rank in range(size) for row in range(batch_size)[Group(rank, size).rows(batch_size)]]
            assert rows == list(range(batch_size))
    assert ALONE.rows(37) is None


def test_a_batch_with_fewer_sequences_than_processes(tmp_path):
    config = DecayConfig(state="normal", samples_per_period=2, units=4, batch_size=9, epochs=2)  # 9 and 1
    assert train_on(2, tmp_path / "store", {"run": config}, tmp_path) == [0, 0]
    found, alone = read_run(tmp_path / "run"), train(config, tmp_path / "alone")
    assert curves(found)[-1] == pytest.approx(curves(alone)[-1], rel=1e-4)


def test_killed_it_goes_on_to_the_same_bytes(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert train_on(2, tmp_path / "first", {"run": KILLED}, undisturbed) == [0, 0]
    exits = train_on(2, tmp_path / "second", {"run": KILLED}, killed, 0, 17)
    assert exits[0] == -signal.SIGKILL
    assert exits[1] not in (0, None), "the other process is not left waiting"
    assert read_run(killed / "run").result is None
    assert train_on(2, tmp_path / "third", {"run": KILLED}, killed, 0) == [0, 0]
    found, wanted = read_run(killed / "run"), read_run(undisturbed / "run")
    assert (found.folder / "weights.safetensors").read_bytes() == (wanted.folder / "weights.safetensors").read_bytes()
    assert curves(found) == curves(wanted)
    assert train_on(2, tmp_path / "fourth", {"run": KILLED}, killed) == [0, 0], "a finished run is only read"


def test_divergence_ends_all_processes(tmp_path):
    config = DecayConfig(state="normal", samples_per_period=30, units=8, batch_size=37, epochs=3, learning_rate=1e30)
    assert train_on(2, tmp_path / "store", {"run": config}, tmp_path) == [0, 0]
    assert "diverged" in read_run(tmp_path / "run").result


def test_torchrun(tmp_path):
    """The command itself, started by torchrun; the first process alone prints."""
    words = f"train decay --samples-per-period 8 --units 4 --epochs 1 --out {tmp_path / 'run'}"
    command = ["--nproc-per-node", "2", "--standalone", "-m", "contextual_rnn.experiments", *words.split()]
    done = fresh.run("from torch.distributed.run import main; main()", *command)
    printed = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]  # as torch 2.9 does
    final, place = printed
    assert place == f"run: {tmp_path / 'run'}"
    run = read_run(tmp_path / "run")
    assert json.loads(final) == run.result["final"]
    assert run.result["processes"] == 2

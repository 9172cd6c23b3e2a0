"""Many seeds in one process: each is the run that it would be alone, to the byte."""

import sys
import threading

import pytest
import torch
from tests.experiments.test_sweep import Serial, files_of

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.runs import trainer as training_steps
from contextual_rnn.experiments.sweeps import stack as module
from contextual_rnn.experiments.sweeps import sweep as sweeps
from contextual_rnn.experiments.sweeps.grid import combinations
from contextual_rnn.experiments.sweeps.stack import side_by_side, stacks
from contextual_rnn.experiments.sweeps.sweep import folder_name, sweep

RETRIEVAL = {"train_samples": 256, "validation_samples": 32, "batch_size": 16, "units": 8, "epochs": 2}
BASES = {
    "decay": DecayConfig(state="normal", samples_per_period=16, units=8, batch_size=8, epochs=1),
    "fast weights": RetrievalConfig(state="context", leaves="h+a", **RETRIEVAL),
    "sampled A(0)": RetrievalConfig(state="normal", leaves="h+a", **RETRIEVAL),
    "lstm": RetrievalConfig(network="lstm", **RETRIEVAL),
}


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 4)


class Recording(Serial):
    def __init__(self):
        self.given = []

    def submit(self, fn, /, *args, **kwargs):
        self.given.append(args[2])
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_each_seed_is_the_run_that_it_would_be_alone(base, tmp_path, four_cores):
    """Equal bytes: every run computes the same operations on the same numbers, whatever runs beside it."""
    configs, executor = combinations(base, {}, seeds=4), Recording()
    progress = sweep(configs, tmp_path / "stacked", executor, stack=3)
    assert (progress.failed, len(progress.outcomes)) == ({}, 4)
    assert list(map(len, executor.given)) == [3, 1]
    sweep(configs, tmp_path / "alone", Serial())
    assert files_of(tmp_path / "stacked", configs) == files_of(tmp_path / "alone", configs)


def test_a_stack_that_is_cut_off_goes_on_run_by_run(tmp_path, monkeypatch, four_cores):
    """One seed raises: the others are not disturbed, and it goes on alone from its own checkpoint."""
    configs, step = combinations(BASES["decay"], {}, seeds=3), training_steps.Training.step
    with monkeypatch.context() as patched:

        def failing(self, k):
            if self.config.seed == 2 and k == 7:
                raise ZeroDivisionError
            return step(self, k)

        patched.setattr(training_steps.Training, "step", failing)
        progress = sweep(configs, tmp_path / "stacked", Serial(), stack=3, checkpoint_seconds=0)
    assert progress.failed.keys() == {folder_name(configs[2])}
    assert (tmp_path / "stacked" / folder_name(configs[2]) / "checkpoint.safetensors").is_file()
    again = Recording()
    assert sweep(configs, tmp_path / "stacked", again, stack=3).skipped == 2
    assert again.given == [[folder_name(configs[2])]]
    sweep(configs, tmp_path / "alone", Serial())
    assert files_of(tmp_path / "stacked", configs) == files_of(tmp_path / "alone", configs)


def test_runs_are_stacked_that_differ_in_the_seed_alone():
    configs = combinations(BASES["decay"], {"seed": ["0", "1", "2"], "units": ["4", "8"]})
    names = sweeps.named(configs)
    found = [[(names[name].units, names[name].seed) for name in stack] for stack in stacks(names, 2)]
    assert found == [[(4, 0), (4, 1)], [(4, 2)], [(8, 0), (8, 1)], [(8, 2)]]
    assert stacks(names, 1) == [(name,) for unit in (4, 8) for name in names if names[name].units == unit]
    with pytest.raises(ValueError, match="stack: expected a positive int, got 0"):
        stacks(names, 0)


def test_as_many_at_once_as_there_are_cores_for(monkeypatch):
    """Two at a time on four cores with two threads each, and the process's own settings afterwards."""
    monkeypatch.setattr(module, "cores", lambda: 4)
    together, before = threading.Barrier(2), (torch.get_num_threads(), sys.getswitchinterval())

    def work():
        together.wait(60)  # passes two at a time, or not at all
        return threading.get_ident(), torch.get_num_threads()

    found = side_by_side(2, [work] * 6)
    assert len({ident for ident, _ in found}) == 2
    assert {threads for _, threads in found} == {2}
    assert (torch.get_num_threads(), sys.getswitchinterval()) == before


def test_weights_start_alike_however_many_threads_draw_them():
    """The global generator, which initialises them, is one for all threads."""
    alone = training_steps.Training(BASES["decay"]).tensors()
    for found in side_by_side(1, [lambda: training_steps.Training(BASES["decay"]).tensors()] * 20):
        assert all(torch.equal(found[name], alone[name]) for name in alone)


def test_the_default_is_a_run_at_a_time(tmp_path):
    executor = Recording()
    sweeps.sweep(combinations(BASES["decay"], {}, seeds=2), tmp_path, executor)
    assert list(map(len, executor.given)) == [1, 1]

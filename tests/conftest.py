"""Shapes of the inner functions are checked at run time during the tests; the entry points check for themselves.

The hook must be in place before the package is imported. It covers no public function, where a check of its own
could hide that ours is missing.
"""

import gc
import inspect
import logging
import os

import jaxtyping
import pytest

CHECKED = ("reference", "attention")
jaxtyping.install_import_hook([f"contextual_rnn.ops._fast_weights.{name}" for name in CHECKED], "beartype.beartype")

# What is imported and collected stays, and nobody looks through it for garbage.
gc.disable()


def pytest_collection_finish():
    # Pytest imports it at the end otherwise, and it looks in vain for what holds a generator of trio: that is frozen.
    import hypothesis  # noqa: F401

    gc.freeze()
    gc.enable()
    # A million objects more come with what tests import: each look at all takes a second.
    gc.set_threshold(700, 10, 200)


# Tests survive no power failure: a file that never reaches the disk is written, and deleted, a hundred times as fast.
os.fsync = lambda file: None


@pytest.fixture(scope="session", autouse=True)
def no_threads_of_fake_devices():
    """Autograd counts the devices at its first backward pass, and starts a thread for each; after that nothing that is
    forked can differentiate. In torch 2.15 it counts the GPUs of FakeTensorMode, so this pass comes before them.
    """
    import torch

    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session", autouse=True)
def quick_seeds():
    """Without a GPU each of three kinds of device would note who gave it a seed, a whole traceback: milliseconds."""
    import torch

    if not torch.accelerator.is_available():
        torch.manual_seed = torch.default_generator.manual_seed


@pytest.fixture
def traceable(monkeypatch):
    """What tracing needs: inner shapes are not checked, for sizes are unknown there, and its log is not kept.

    Nor is it timed: for each compiled program Dynamo empties the cache of the processor, to say in a log how long the
    checks of its arguments take, and that takes 30 ms.
    """
    from torch._dynamo import guards

    from contextual_rnn.ops import BACKENDS

    monkeypatch.setattr(guards, "profile_guard_manager", lambda *_: 0.0, raising=False)

    jaxtyping.config.update("jaxtyping_disable", True)
    for name in CHECKED:  # torch before 2.11 cannot trace what is wrapped around them either
        monkeypatch.setitem(BACKENDS, name, inspect.unwrap(BACKENDS[name]))
    trace = logging.getLogger("torch.__trace")
    disabled, trace.disabled = trace.disabled, True
    yield
    trace.disabled = disabled
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def quick_workers(monkeypatch):
    """The processes of a sweep start as forks of one that has imported PyTorch; others spawn theirs, as users do."""
    from tests import fresh

    from contextual_rnn.experiments.sweeps import workers

    monkeypatch.setattr(workers, "START_METHOD", fresh.PROCESSES.get_start_method())

"""The task of a configuration."""

from __future__ import annotations

import pkgutil
import threading
from typing import Any

import torch

from contextual_rnn.experiments.config import Config, entry_of
from contextual_rnn.experiments.training.seeding import seed_for
from contextual_rnn.experiments.training.task import Task

# PyTorch's global generator, which initialises weights, is one for all threads of a process.
_GLOBAL_GENERATOR = threading.Lock()


def build_task(config: Config) -> Task[Any]:
    """Data and freshly initialised model, a pure function of the configuration; the global generator is left alone."""
    task = entry_of(config).task
    build = pkgutil.resolve_name(task) if isinstance(task, str) else task
    # On the CPU, whatever the default device: a GPU would draw other weights.
    with _GLOBAL_GENERATOR, torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for("weights", config.seed))  # the CPU's only, which is the one forked
        return build(config)

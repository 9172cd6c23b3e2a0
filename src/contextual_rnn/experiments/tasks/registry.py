"""The tasks by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from contextual_rnn.experiments.config import Config, task_name
from contextual_rnn.experiments.tasks.decay import DecayTask
from contextual_rnn.experiments.tasks.retrieval import RetrievalTask
from contextual_rnn.experiments.training.seeding import seed_for
from contextual_rnn.experiments.training.task import Task

TASKS: dict[str, Callable[[Any], Task]] = {"retrieval": RetrievalTask, "decay": DecayTask}

# PyTorch's global generator, which initialises weights, is one for all threads of a process.
_GLOBAL_GENERATOR = threading.Lock()


def build_task(config: Config) -> Task:
    """Data and freshly initialised model, a pure function of the configuration; the global generator is left alone."""
    # On the CPU, whatever the default device: a GPU would draw other weights.
    with _GLOBAL_GENERATOR, torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for("weights", config.seed))  # the CPU's only, which is the one forked
        return TASKS[task_name(config)](config)

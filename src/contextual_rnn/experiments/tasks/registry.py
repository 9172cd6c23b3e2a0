"""The task of a configuration."""

from __future__ import annotations

import pkgutil
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn.experiments.config import Config, entry_of
from contextual_rnn.experiments.training.seeding import global_generators
from contextual_rnn.experiments.training.task import Task


def build_task(config: Config) -> Task[Any]:
    """Data and freshly initialised model, a pure function of the configuration; the global generator is left alone."""
    task = entry_of(config).task
    build = pkgutil.resolve_name(task) if isinstance(task, str) else task
    # On the CPU, whatever the default device: a GPU would draw other weights.
    with torch.device("cpu"), global_generators("weights", config.seed):
        return _checked(build(config), config)


def _checked(task: Any, config: Config) -> Task[Any]:
    """Refuse what is no task, a task without a model, and data that are no tensors of one row an example."""
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a Task for {type(config).__name__}, got {type(task).__name__}")
    model = getattr(task, "model", None)
    if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
        raise TypeError(
            f"model: expected a module with parameters in {type(task).__name__}, got {type(model).__name__}"
        )
    for name in ("training", "validation"):
        data = getattr(task, name, None)
        if not isinstance(data, tuple) or not all(isinstance(each, Tensor) and each.ndim for each in data) or not data:
            received = type(data).__name__
            if isinstance(data, tuple):
                received = f"({', '.join(type(each).__name__ for each in data)})"
            raise TypeError(f"{name}: expected a tuple of tensors in {type(task).__name__}, got {received}")
        rows = [len(each) for each in data]
        if len(set(rows)) > 1 or (name == "training" and not rows[0]):
            raise ValueError(f"{name}: expected as many rows in each tensor, at least one, got {rows}")
    return task

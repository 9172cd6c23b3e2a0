"""Training in memory: what a run does step by step, and no files."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.experiments.associative_retrieval import RetrievalTask
from contextual_rnn.experiments.batches import Batches, generator_for, seed_for
from contextual_rnn.experiments.captured_step import CapturedStep
from contextual_rnn.experiments.config import Config
from contextual_rnn.experiments.data_parallel import ALONE, Group
from contextual_rnn.experiments.flat_adam import FlatAdam
from contextual_rnn.experiments.linear_cosine_decay import DecayTask
from contextual_rnn.experiments.results import task_name
from contextual_rnn.experiments.task import Task

TASKS: dict[str, Callable[[Any], Task]] = {"retrieval": RetrievalTask, "decay": DecayTask}

# PyTorch's global generator, which initialises weights, is one for all threads of a process.
_GLOBAL_GENERATOR = threading.Lock()


class Training:
    """A run in memory: its task, the order of its batches, and its optimizer."""

    def __init__(self, config: Config, group: Group = ALONE):
        self.config, self.group = config, group
        device = device_of(config, group)
        self.task = build_task(config)
        self.task.to(device)
        self.batches = Batches(config.seed, self.task.training, config.batch_size)
        self.optimizer = FlatAdam(self.task.model, self.task.clip_norm)
        self._captured = CapturedStep(self.task, self.optimizer) if device.type == "cuda" else None

    def step(self, k: int) -> float:
        """Train on batch k and return its loss; a loss that is not finite changes nothing."""
        batch = self.batches[k]
        if self._captured is not None:
            return self._captured(batch, seed_for("states", self.config.seed, k), self.learning_rate(k))
        generator = generator_for("states", self.config.seed, k)
        rows = self.group.rows(batch[0].shape[0])
        if rows is None:
            loss = self.task.differentiate(batch, generator, self.optimizer)
        else:
            loss = self._differentiate_together(batch, generator, rows)
        if math.isfinite(loss):
            self.optimizer.step(self.learning_rate(k))
        return loss

    def _differentiate_together(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice) -> float:
        """The mean over the batch is the processes' own means, each by its share; so are the gradients."""
        share, gradient, own = (rows.stop - rows.start) / len(batch[0]), self.optimizer.gradient, 0.0
        if share:
            own = self.task.differentiate(batch, generator, self.optimizer, rows)
        else:
            gradient.zero_()
        loss = torch.tensor(own * share, dtype=torch.float64, device="cpu")
        self.group.sum(loss)
        if math.isfinite(loss.item()):  # for all processes alike
            gradient.mul_(share)
            self.group.sum(gradient)
        return loss.item()

    def learning_rate(self, k: int) -> float:
        """Adam's step size for batch k."""
        if self.config.schedule == "constant":
            return self.config.learning_rate
        share = k / (self.config.epochs * self.batches.per_epoch)
        return self.config.learning_rate * (1 + math.cos(math.pi * share)) / 2

    def tensors(self) -> dict[str, Tensor]:
        """All that training goes on from, by name: the model's and the optimizer's."""
        return {
            **{f"model.{name}": tensor for name, tensor in self.task.model.state_dict().items()},
            **{f"adam.{name}": tensor for name, tensor in self.optimizer.state.items()},
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from `tensors` of the same configuration; raises ValueError where their names or shapes are others."""
        expected = {name: tensor.shape for name, tensor in self.tensors().items()}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if differ := sorted(name for name in {**expected, **found} if found.get(name) != expected.get(name)):
            raise ValueError(f"they differ in {', '.join(differ)}")
        for name, tensor in self.tensors().items():  # in place: a captured step goes on reading there
            tensor.copy_(tensors[name])


def device_of(config: Config, group: Group = ALONE) -> torch.device:
    """Where a run computes; raises ValueError where that cannot be."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu where there is no GPU that torch can use, got cuda")
    if config.device == "cuda" and group.size > 1:
        raise ValueError(f"device: expected cpu for a run on {group.size} processes, got cuda")
    return torch.device(config.device)


def build_task(config: Config) -> Task:
    """Data and freshly initialised model, a pure function of the configuration; the global generator is left alone."""
    # On the CPU, wherever else this process makes its modules: a GPU would draw other weights.
    with _GLOBAL_GENERATOR, torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for("weights", config.seed))  # no GPU's, which no fork is of
        return TASKS[task_name(config)](config)

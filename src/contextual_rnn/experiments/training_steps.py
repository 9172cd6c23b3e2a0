"""Training in memory: what a run does step by step, and no files."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.experiments.associative_retrieval import RetrievalTask
from contextual_rnn.experiments.batches import Batches, generator_for
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
        self.task = build_task(config)
        self.batches = Batches(config.seed, self.task.training, config.batch_size)
        self.optimizer = FlatAdam(self.task.model, config.learning_rate, self.task.clip_norm)

    def step(self, k: int) -> float:
        """Train on batch k and return its loss; a loss that is not finite changes nothing."""
        batch, generator = self.batches[k], generator_for("states", self.config.seed, k)
        rows = self.group.rows(batch[0].shape[0])
        if rows is None:
            loss = self.task.differentiate(batch, generator, self.optimizer)
        else:
            loss = self._differentiate_together(batch, generator, rows)
        if math.isfinite(loss):
            self.optimizer.adam.param_groups[0]["lr"] = self.learning_rate(k)
            self.optimizer.step()
        return loss

    def _differentiate_together(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice) -> float:
        """The mean over the batch is the processes' own means, each by its share; so are the gradients."""
        share, gradient, own = (rows.stop - rows.start) / len(batch[0]), self.optimizer.gradient, 0.0
        if share:
            own = self.task.differentiate(batch, generator, self.optimizer, rows)
        else:
            gradient.zero_()
        loss = torch.tensor(own * share, dtype=torch.float64)
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
        adam: dict[int, dict[str, Tensor]] = self.optimizer.adam.state_dict()["state"]
        return {
            **{f"model.{name}": tensor for name, tensor in self.task.model.state_dict().items()},
            **{f"adam.{name}": tensor for name, tensor in adam.get(0, {}).items()},
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from `tensors` of the same configuration; raises ValueError where their names or shapes are others."""
        model = self.task.model.state_dict()
        count = self.optimizer.adam.param_groups[0]["params"][0].shape
        expected = {f"model.{name}": tensor.shape for name, tensor in model.items()}
        expected |= {"adam.step": torch.Size(), "adam.exp_avg": count, "adam.exp_avg_sq": count}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if differ := sorted(name for name in {**expected, **found} if found.get(name) != expected.get(name)):
            raise ValueError(f"they differ in {', '.join(differ)}")
        self.task.model.load_state_dict({name: tensors[f"model.{name}"] for name in model})
        adam = {name.removeprefix("adam."): tensor for name, tensor in tensors.items() if name.startswith("adam.")}
        groups = self.optimizer.adam.state_dict()["param_groups"]
        self.optimizer.adam.load_state_dict({"state": {0: adam}, "param_groups": groups})


def build_task(config: Config) -> Task:
    """Data and freshly initialised model, a pure function of the configuration; the global generator is left alone."""
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for("weights", config.seed).initial_seed())
        return TASKS[task_name(config)](config)

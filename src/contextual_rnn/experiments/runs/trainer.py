"""Training in memory: what a run does step by step, and no files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import shortened
from contextual_rnn._saved_numbers import keys_of_numbers
from contextual_rnn.experiments.config import Config, entry_of
from contextual_rnn.experiments.interrupts import requested
from contextual_rnn.experiments.tasks.registry import build_task
from contextual_rnn.experiments.training.batches import Batches
from contextual_rnn.experiments.training.cuda_graph import CapturedStep
from contextual_rnn.experiments.training.data_parallel import ALONE, Group
from contextual_rnn.experiments.training.flat_adam import FlatAdam
from contextual_rnn.experiments.training.seeding import generator_for, global_generators, seed_for
from contextual_rnn.spec.steps import evaluation

OF_EVERY_LINE = ("epoch", "step", "seconds", "train_loss")  # in a line of metrics beside those of the task


class Training:
    """A run in memory: its task, the order of its batches, and its optimizer."""

    def __init__(self, config: Config, group: Group = ALONE, interrupted: Callable[[], bool] = requested):
        self.config, self.group = config, group
        self._interrupted, self._group_interrupted = interrupted, False
        device = device_of(config, group)
        self.task = build_task(config)
        self.task.to(device)
        self.batches = Batches(config.seed, self.task.training, config.batch_size)
        self.optimizer = FlatAdam(self.task.model, self.task.clip_norm)
        self._captured = CapturedStep(self.task, self.optimizer) if device.type == "cuda" else None

    def step(self, k: int) -> float:
        """Train on batch k and return its loss; a loss that is not finite changes nothing."""
        with self._draws("global", self.config.seed, k, self.group.rank):
            return self._step(k)

    def _step(self, k: int) -> float:
        batch = self.batches[k]
        if self._captured is not None:
            return self._captured(batch, seed_for("states", self.config.seed, k), self.config.learning_rate)
        generator = generator_for("states", self.config.seed, k)
        rows = self.group.rows(batch[0].shape[0])
        if rows is None:
            loss = self.task.differentiate(batch, generator, self.optimizer)
        else:
            loss = self._differentiate_together(batch, generator, rows)
        if math.isfinite(loss):
            self.optimizer.step(self.config.learning_rate)
        return loss

    def evaluate(self, final: bool) -> dict[str, float]:
        """The metrics of the task; raises TypeError or ValueError, which names the metric, for what is no such dict."""
        with evaluation(self.task.model), self._draws("evaluation", self.config.seed):
            metrics = self.task.evaluate(final)
        return _numbers_of(metrics, entry_of(self.config).metrics[0].name)

    def _draws(self, *key: str | int) -> AbstractContextManager[None]:
        """What the task draws from torch's global generators is a function of `key`."""
        if not self.task.draws_globally:
            return nullcontext()
        return global_generators(*key, cuda=self._captured is not None)

    def interrupted(self) -> bool:
        """Whether to stop before the next step; all processes of a group return the same."""
        return self._interrupted() if self.group.size == 1 else self._group_interrupted

    def _differentiate_together(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice) -> float:
        """The mean over the batch is the processes' own means, each by its share; so are the gradients."""
        share, gradient, own = (rows.stop - rows.start) / len(batch[0]), self.optimizer.gradient, 0.0
        if share:
            own = self.task.differentiate(batch, generator, self.optimizer, rows)
        else:
            gradient.zero_()
        sums = torch.tensor([own * share, self._interrupted()], dtype=torch.float64, device="cpu")
        self.group.sum(sums)
        loss, interrupted = sums.tolist()
        self._group_interrupted = interrupted > 0  # the same for all, so that no process waits for another's step
        if math.isfinite(loss):  # for all processes alike
            gradient.mul_(share)
            self.group.sum(gradient)
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that training continues from, by name: the model's and the optimizer's."""
        model, numbers = self.task.model, keys_of_numbers(self.task.model)  # of the configuration
        return {
            **{f"model.{name}": tensor for name, tensor in model.state_dict().items() if name not in numbers},
            **{f"adam.{name}": tensor for name, tensor in self.optimizer.state.items()},
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from `tensors` of the same configuration; raises ValueError where names, shapes or dtypes differ."""
        own = self.tensors()
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in own.items()}
        received = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        if differ := sorted(name for name in {**expected, **received} if received.get(name) != expected.get(name)):
            raise ValueError(f"they differ in {', '.join(differ)}")
        for name, tensor in own.items():  # in place: a captured step reads from these addresses
            tensor.copy_(tensors[name])


def device_of(config: Config, group: Group = ALONE) -> torch.device:
    """The device of a run. Raises ValueError where it is not available."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu where there is no GPU that torch can use, got cuda")
    if config.device == "cuda" and group.size > 1:
        raise ValueError(f"device: expected cpu for a run on {group.size} processes, got cuda")
    return torch.device(config.device)


def _numbers_of(metrics: Any, first: str) -> dict[str, float]:
    """What `evaluate` has returned, as numbers that JSON has; one that is not finite is a run's that diverged."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"evaluate: expected a dict from names of metrics to numbers, got {type(metrics).__name__}")
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"evaluate: expected names of metrics, got {shortened(name)}")
        if name in OF_EVERY_LINE:
            raise ValueError(f"evaluate: expected other names than {', '.join(OF_EVERY_LINE)}, got {name}")
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"evaluate: expected a number for {name}, got {type(value).__name__}")
        try:
            as_float = float(value)
        except OverflowError:
            raise ValueError(f"evaluate: expected a float for {name}, got a larger number") from None
        numbers[name] = int(value) if isinstance(value, Integral) else as_float
    if first not in numbers:
        received = ", ".join(numbers) or "none"
        raise ValueError(f"evaluate: expected {first}, the first metric of the task, got {received}")
    return numbers

"""The interface of a task for training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from contextual_rnn.diagnostics import Diagnosis
from contextual_rnn.experiments.training.flat_adam import FlatAdam

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Tested:
    """Errors on test data that no choice was based on: `errors`, (examples, steps), nan where there is no target.

    An error of a whole sequence is one step. `series`, (examples,), names what each example is a part of: examples of
    different series are independent. `groups` does the same for something larger, where there is one. `scores` has
    further numbers of the same shape, by name, such as the CRPS.
    """

    errors: Tensor
    series: Sequence[str]
    groups: Sequence[str] | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)


class Task(ABC, Generic[Model]):
    """Data sets, a model and a loss. `training` and `validation` are tensors of one row an example."""

    model: Model
    training: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]
    clip_norm: float | None = None

    def to(self, device: torch.device) -> None:
        """Move the model and the data to `device`."""
        self.model.to(device)
        self.training = tuple(tensor.to(device) for tensor in self.training)
        self.validation = tuple(tensor.to(device) for tensor in self.validation)

    @abstractmethod
    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice | None = None) -> Tensor:
        """Mean loss of `batch`, or of those `rows` of it; `generator` draws random initial states."""

    def differentiate(
        self, batch: tuple[Tensor, ...], generator: torch.Generator, optimizer: FlatAdam, rows: slice | None = None
    ) -> float:
        """Return `loss`, whose gradients go to the optimizer where it is finite."""
        loss = self.loss(batch, generator, rows)
        if math.isfinite(value := loss.item()):
            optimizer.differentiate(loss)
        return value

    @abstractmethod
    def evaluate(self, final: bool) -> dict[str, float]:
        """Metrics on the validation set, in evaluation mode; `final` asks for those too slow for every epoch."""

    def test(self) -> Tested | None:
        """Errors of the trained model on test data; None for a task without, which cannot be compared."""
        return None

    def diagnose(self) -> Diagnosis | None:
        """Whether the initial state of the trained model mattered, on fresh sequences; None where nobody can say."""
        return None

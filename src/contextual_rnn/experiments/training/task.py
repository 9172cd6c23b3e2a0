"""The interface of a task for training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from contextual_rnn.diagnostics import Diagnosis
from contextual_rnn.experiments.training.flat_adam import FlatAdam

Model = TypeVar("Model", bound=nn.Module)


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

    def diagnose(self) -> Diagnosis | None:
        """Whether the initial state of the trained model mattered, on fresh sequences; None where nobody can say."""
        return None

"""What training needs to know of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class Task(ABC, Generic[Model]):
    """A data set, a model and a loss. `num_samples` is the size of the training set."""

    model: Model
    num_samples: int
    clip_norm: float | None = None

    @abstractmethod
    def loss(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of the training examples `indices`; `generator` draws random initial states."""

    @abstractmethod
    def evaluate(self, final: bool) -> dict[str, float]:
        """Metrics on the validation set, in evaluation mode; `final` asks for those too slow for every epoch."""

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
    further numbers of the same shape, by name, such as the CRPS. Raises TypeError or ValueError for others.
    """

    errors: Tensor
    series: Sequence[str]
    groups: Sequence[str] | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in {"errors": self.errors, **self.scores}.items():
            if not isinstance(values, Tensor):
                raise TypeError(f"{name}: expected a tensor (examples, steps), got {type(values).__name__}")
        examples = self.errors.shape[0] if self.errors.ndim in (1, 2) else 0
        if not examples or len(self.series) != examples:
            expected = f"those of the {len(self.series)} examples that series names, (examples, steps)"
            raise ValueError(f"errors: expected {expected}, got shape {tuple(self.errors.shape)}")
        if self.groups is not None and len(self.groups) != examples:
            raise ValueError(f"groups: expected one for each of {examples} examples, got {len(self.groups)}")
        for name, values in self.scores.items():
            if values.shape != self.errors.shape:
                raise ValueError(f"{name}: expected {tuple(self.errors.shape)} as errors, got {tuple(values.shape)}")
        if bool(self.errors.isnan().all()):
            raise ValueError(f"errors: expected at least one that is a number, got nan in all {self.errors.numel()}")
        object.__setattr__(self, "errors", self.errors.detach())


class Task(ABC, Generic[Model]):
    """Data sets, a model and a loss. `training` and `validation` are tensors of one row an example."""

    model: Model
    training: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]
    clip_norm: float | None = None
    # False where `loss` and `evaluate` draw from their own generators alone: runs side by side then do not wait for the
    # steps of others.
    draws_globally: bool = True

    def to(self, device: torch.device) -> None:
        """Move the model and the data to `device`."""
        self.model.to(device)
        self.training = tuple(tensor.to(device) for tensor in self.training)
        self.validation = tuple(tensor.to(device) for tensor in self.validation)

    @abstractmethod
    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice | None = None) -> Tensor:
        """Mean loss of `batch`, or of those `rows` of it; `generator` draws random initial states.

        Torch's global generator is seeded for each step, so that dropout repeats its draws too.
        """

    def differentiate(
        self, batch: tuple[Tensor, ...], generator: torch.Generator, optimizer: FlatAdam, rows: slice | None = None
    ) -> float:
        """Return `loss`, whose gradients go to the optimizer where it is finite."""
        loss = self.loss(batch, generator, rows)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            received = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            received = "one without" if isinstance(loss, Tensor) and loss.numel() == 1 else received
            raise TypeError(f"loss: expected a tensor of one number with a gradient, got {received}")
        if math.isfinite(value := loss.item()):
            optimizer.differentiate(loss)
        return value

    @abstractmethod
    def evaluate(self, final: bool) -> dict[str, float]:
        """Metrics on the validation set, in evaluation mode; `final` asks for those too slow for every epoch."""

    def test(self) -> Tested | None:
        """Errors of the trained model on test data, in evaluation mode; None for a task that cannot be compared."""
        return None

    def diagnose(self) -> Diagnosis | None:
        """Whether the initial state of the trained model mattered, on fresh sequences; None where nobody can say."""
        return None

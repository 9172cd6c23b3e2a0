"""A task as a user writes one, in a file of its own: an RNN says the mean of a sequence, from its own kind of start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextualRNN, FreeState
from contextual_rnn.experiments.config import Measure, Metric, TaskEntry, TrainingConfig, epochs_to, final, register
from contextual_rnn.experiments.training.seeding import generator_for
from contextual_rnn.experiments.training.task import Task, Tested


@dataclass(frozen=True)
class MeanConfig(TrainingConfig):
    """The mean of a sequence."""

    state: str = "warm"
    """zero, or warm: learned, from ones."""
    units: int = 3
    """Size of the RNN."""
    epochs: int = 2
    """Passes over the training set."""
    batch_size: int = 8
    """Sequences in a training step."""


class MeanModel(nn.Module):
    def __init__(self, config: MeanConfig):
        super().__init__()
        rnn = nn.RNN(1, config.units, batch_first=True)
        state = ConstantState(rnn) if config.state == "zero" else FreeState(rnn)
        if isinstance(state, FreeState):
            nn.init.ones_(next(state.parameters()))
        self.rnn, self.readout = ContextualRNN(rnn, state), nn.Linear(config.units, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.rnn(x)[0][:, -1])


class MeanTask(Task[MeanModel]):
    def __init__(self, config: MeanConfig):
        draws = torch.rand(24, 5, 1, generator=generator_for("mean", config.data_seed))
        self.training, self.validation = (draws[:16],), (draws[16:],)
        self.model = MeanModel(config)

    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice | None = None) -> Tensor:
        x = batch[0][rows or slice(None)]
        return (self.model(x) - x.mean(1)).square().mean()

    def evaluate(self, final: bool) -> dict[str, float]:
        with torch.no_grad():
            error = (self.model(self.validation[0]) - self.validation[0].mean(1)).abs()
        return {"mean_error": error.mean().item(), "share_close": (error < 0.5).double().mean().item()}

    def test(self) -> Tested:
        x = torch.rand(24, 5, 1, generator=generator_for("mean", "test"))
        with torch.no_grad():
            return Tested((self.model(x) - x.mean(1)).abs()[:, 0], [str(index) for index in range(len(x))])


register(
    TaskEntry(
        name="mean",
        config=MeanConfig,
        task=MeanTask,
        title="The mean of a sequence",
        metrics=(Metric("mean_error", "error", axis="error"), Metric("share_close", "close", "share")),
        measures=(
            Measure("mean_error", final("mean_error")),
            Measure("epochs_to_close", epochs_to(0.01, "share_close")),
            Measure("largest_step", lambda lines, last: max(line["mean_error"] for line in lines)),
        ),
        text="Averages are hard.",
        curves="Error and share.",
    )
)

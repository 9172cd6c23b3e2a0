"""The network of the state tuning example, and low-rank updates of its weights."""

import string

import torch
from torch import Tensor, nn
from torch.func import functional_call

SYMBOLS = "\n" + string.digits + string.ascii_letters + " ,./-" + "äéûÄÉÛ"


class Writer(nn.Module):
    """Scores of the next character, from `hx` and with other weights of the LSTM where those are given."""

    def __init__(self, units: int):
        super().__init__()
        self.embed = nn.Embedding(len(SYMBOLS), 32)
        self.lstm = nn.LSTM(32, units, batch_first=True)
        self.readout = nn.Linear(units, len(SYMBOLS))

    def forward(self, rows: Tensor, hx: tuple | None = None, weights: dict[str, Tensor] | None = None) -> Tensor:
        output, _ = functional_call(self.lstm, weights or {}, (self.embed(rows[:, :-1].clamp(min=0)), hx))
        return self.readout(output)


class LowRank(nn.Module):
    """W + B A for both weight matrices; B starts at zero, so that nothing has changed yet."""

    def __init__(self, lstm: nn.LSTM, rank: int):
        super().__init__()
        self.names = ["weight_ih_l0", "weight_hh_l0"]
        self.frozen = [getattr(lstm, name) for name in self.names]
        self.a = nn.ParameterList(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5 for weight in self.frozen)
        self.b = nn.ParameterList(torch.zeros(weight.shape[0], rank) for weight in self.frozen)

    def forward(self) -> dict[str, Tensor]:
        return {n: w + b @ a for n, w, b, a in zip(self.names, self.frozen, self.b, self.a, strict=True)}


def scores(model: Writer, extra: nn.Module | None, rows: Tensor, task: Tensor) -> Tensor:
    """Of the model with what a task adds: a state, other weights, or nothing."""
    if isinstance(extra, LowRank):
        return model(rows, weights=extra())
    return model(rows, hx=None if extra is None else extra(task, len(rows)))

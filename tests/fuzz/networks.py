"""Networks as users write them, some of which do what no network should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn import Leaf, StateSpec, state_spec

INPUT_SIZE, UNITS = 3, 5


class OddError(Exception):
    """What a user's own code raises: passed on as it is."""


class Own(nn.Module):
    """A cell of a user's own; each kind differs in `forward`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(UNITS, INPUT_SIZE))

    def next(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight.T + 0.5 * h)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        new = self.next(x, h)
        return new, new


class InPlace(Own):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        h.copy_(self.next(x, h).detach())
        return h, h


class StateAlone(Own):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.next(x, h)


class WrongState(Own):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.next(x, h), h[..., :1]


class NoState(Own):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.next(x, h), None


class Text(Own):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        return "output", "state"


class Raising(Own):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        raise OddError("a network that fails")


@state_spec.register
def _(network: Own) -> StateSpec:
    return StateSpec(Leaf("h", (UNITS,)), input_ndim=2).like(network.weight)


class WithoutParameters(nn.Module):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        new = torch.tanh(h + x.sum(-1, keepdim=True))
        return new, new


@state_spec.register
def _(network: WithoutParameters) -> StateSpec:
    return StateSpec(Leaf("h", (UNITS,)), input_ndim=2)


class Delegating(nn.Module):
    """A module around an LSTM that is registered by the LSTM's spec."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(INPUT_SIZE, UNITS, batch_first=True)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self.lstm(x, state)


@state_spec.register
def _(network: Delegating) -> StateSpec:
    return state_spec(network.lstm)


class WrongSpec(nn.Module):
    """Its registered function returns no spec."""


@state_spec.register
def _(network: WrongSpec) -> StateSpec:
    return "h of shape (5,)"  # pyright: ignore[reportReturnType]


class Unregistered(nn.Module):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x, h


class OwnLSTM(nn.LSTM):
    """A subclass of torch's own class with another state."""


ODD_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "in place": InPlace,
    "state alone": StateAlone,
    "wrong state": WrongState,
    "no state": NoState,
    "text": Text,
    "raising": Raising,
    "without parameters": WithoutParameters,
    "delegating": Delegating,
    "wrong spec": WrongSpec,
    "unregistered": Unregistered,
    "own lstm": lambda: OwnLSTM(INPUT_SIZE, UNITS),
    "linear": lambda: nn.Linear(INPUT_SIZE, UNITS),
    "lazy": lambda: nn.LazyLinear(UNITS),
    "empty": nn.Identity,
    "half": lambda: nn.GRU(INPUT_SIZE, UNITS).half(),
    "double": lambda: nn.LSTM(INPUT_SIZE, UNITS).double(),
    "meta": lambda: nn.LSTM(INPUT_SIZE, UNITS, device="meta"),
    "frozen": lambda: nn.GRU(INPUT_SIZE, UNITS).requires_grad_(False),
    "list": lambda: nn.ModuleList([nn.Linear(2, 2)]),
}

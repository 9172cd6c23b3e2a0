"""Networks of somebody's own over sequences, each registered in another way; all take 3 features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from contextual_rnn import FastWeightsRNN, Leaf, StateSpec, state_spec


class Around(nn.Module):
    """A module around a network, described by the network's spec."""

    def __init__(self, network: nn.Module, width: int):
        super().__init__()
        self.network, self.readout = network, nn.Linear(width, 4)

    def forward(self, x: Tensor, state):
        output, state = self.network(x, state)
        return self.readout(output), state


@state_spec.register
def _(network: Around) -> StateSpec:
    return state_spec(network.network)


class LeakyIntegrator(nn.Module):
    """The network of the README: its spec does not say whether it takes sequences."""

    def __init__(self, input_size: int = 3, n: int = 5):
        super().__init__()
        self.n, self.u = n, nn.Linear(input_size, n, bias=False)

    def forward(self, x: Tensor, state: dict[str, Tensor]):
        v, outputs = state["v"], []
        for step in x.unbind(1):
            v = torch.tanh(0.9 * v + self.u(step))
            outputs.append(v)
        return torch.stack(outputs, 1), {"v": v}


@state_spec.register
def _(network: LeakyIntegrator) -> StateSpec:
    return StateSpec({"v": Leaf("v", (network.n,))})


class InPlace(nn.Module):
    """A network that overwrites its state: the tensors, and the dict that holds them."""

    def __init__(self):
        super().__init__()
        self.u = nn.Linear(3, 5)

    def forward(self, x: Tensor, state: dict[str, Tensor]):
        outputs = []
        for step in x:
            state["h"].mul_(0.9).add_(self.u(step))
            h = state["h"].clone()
            state["c"] = 0.5 * state["c"] + h.T.sin()
            outputs.append(h + state["c"].T)
        return torch.stack(outputs), state


@state_spec.register
def _(network: InPlace) -> StateSpec:
    tree = {"h": Leaf("h", (5,)), "c": Leaf("c", (5,), batch_dim=1)}
    return StateSpec(tree, input_batch_dim=1, input_ndim=3, time_dim=0)


class TimeLast(nn.Module):
    """Takes (B, features, T)."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 5, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, h: Tensor):
        output, h = self.gru(x.mT, h)
        return output.mT, h


@state_spec.register
def _(network: TimeLast) -> StateSpec:
    return StateSpec(Leaf("h", (2, 5), batch_dim=1), time_dim=2)


class OwnForward(nn.LSTM):
    """A subclass that keeps the arguments of nn.LSTM but for packed sequences."""

    def forward(self, input, hx=None):
        return super().forward(1.5 * input, hx)


class WithStep(nn.Module):
    """Time-major, with a step of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor, state: dict[str, Tensor]):
        outputs = []
        for inputs in x:
            state = {"v": torch.tanh(0.9 * state["v"] + inputs @ self.weight.T)}
            outputs.append(state["v"])
        return torch.stack(outputs), state

    def step(self, inputs: Tensor, state: dict[str, Tensor]):
        output, state = self(inputs[None], state)
        return output[0], state


@state_spec.register
def _(network: WithStep) -> StateSpec:
    return StateSpec({"v": Leaf("v", (5,))}, input_batch_dim=1, step=WithStep.step)


OWN: dict[str, Callable[[], nn.Module]] = {
    "lstm in a module": lambda: Around(nn.LSTM(3, 5, num_layers=2, proj_size=2), 2),
    "both ways in a module": lambda: Around(nn.GRU(3, 5, bidirectional=True, batch_first=True), 10),
    "fast weights in a module": lambda: Around(FastWeightsRNN(3, 5), 5),
    "fast weights in a module, with A": lambda: Around(FastWeightsRNN(3, 5, return_fast_weights=True), 5),
    "not said": LeakyIntegrator,
    "in place": InPlace,
    "time last": TimeLast,
    "subclass of nn.LSTM": lambda: OwnForward(3, 5, batch_first=True),
    "with a step": WithStep,
}

"""Networks that the contract suites run over, and how to call them; a new kind joins by one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from contextual_rnn import FastWeightsCell, FastWeightsRNN, Leaf, StateSpec, fast_weights_spec, state_spec

INPUT_SIZE = 3


class Motion(NamedTuple):
    position: Any
    rest: Any


class Springs(nn.Module):
    """A network of a user's own, a step a call: its state is a named tuple with a dict in it, in two layouts."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.randn(hidden_size, input_size))

    def forward(self, x: Tensor, state: Motion | None = None) -> tuple[Tensor, Motion]:
        if state is None:
            zeros = x.new_zeros(*x.shape[:-1], self.hidden_size)
            state = Motion(zeros, {"v": zeros.movedim(-1, 0)})
        velocity = 0.9 * state.rest["v"].movedim(0, -1) + x @ self.weight.T - 0.1 * state.position
        position = state.position + velocity
        return position, Motion(position, {"v": velocity.movedim(-1, 0)})


@state_spec.register
def _(network: Springs) -> StateSpec:
    position, v = Leaf("position", (network.hidden_size,)), Leaf("v", (network.hidden_size,), batch_dim=1)
    return StateSpec(Motion(position, {"v": v}), input_ndim=2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: nn.RNN(INPUT_SIZE, 5),
    "rnn deep both ways": lambda: nn.RNN(INPUT_SIZE, 5, num_layers=2, bidirectional=True, bias=False),
    "gru": lambda: nn.GRU(INPUT_SIZE, 5, num_layers=2, batch_first=True),
    "lstm": lambda: nn.LSTM(INPUT_SIZE, 5, batch_first=True),
    "lstm deep both ways": lambda: nn.LSTM(INPUT_SIZE, 5, num_layers=3, bidirectional=True),
    "lstm projected": lambda: nn.LSTM(INPUT_SIZE, 5, num_layers=2, bidirectional=True, proj_size=2, batch_first=True),
    "rnn cell": lambda: nn.RNNCell(INPUT_SIZE, 5),
    "gru cell": lambda: nn.GRUCell(INPUT_SIZE, 5, bias=False),
    "lstm cell": lambda: nn.LSTMCell(INPUT_SIZE, 5),
    "fast weights": lambda: FastWeightsRNN(INPUT_SIZE, 5, batch_first=True),
    "fast weights cell": lambda: FastWeightsCell(INPUT_SIZE, 5, timing="wenke2019"),
    "own cell": lambda: Springs(INPUT_SIZE, 5),
}
# Networks whose state has variants: the spec to make an initial state for.
SPECS: dict[str, tuple[str, Callable[[nn.Module], StateSpec]]] = {
    **{name: (name, state_spec) for name in NETWORKS if name != "own cell"},
    "own cell": ("own cell", lambda network: state_spec(network).like(network.weight)),
    "fast weights, dense A": ("fast weights", lambda network: fast_weights_spec(network, "dense")),
    "fast weights, low-rank A": ("fast weights", lambda network: fast_weights_spec(network, "low_rank", rank=2)),
    "fast weights cell, dense A": ("fast weights cell", lambda network: fast_weights_spec(network, "dense")),
    "gru, one state for all layers": ("gru", lambda network: state_spec(network).shared()),
    "lstm both ways, one state": ("lstm deep both ways", lambda network: state_spec(network).shared()),
}


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, StateSpec]:
    """A network and the spec of its state."""
    kind, spec = SPECS[name]
    torch.manual_seed(0)
    network = NETWORKS[kind]().to(dtype)
    return network, spec(network)


def is_cell(network: nn.Module) -> bool:
    return isinstance(network, nn.RNNCellBase | FastWeightsCell | Springs)


def make_input(network: nn.Module, batch: int | None, steps: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random input in the network's own layout; `batch` None is one unbatched example."""
    if is_cell(network):
        return torch.randn(*(() if batch is None else (batch,)), INPUT_SIZE, dtype=dtype)
    if batch is None:
        return torch.randn(steps, INPUT_SIZE, dtype=dtype)
    first = (batch, steps) if network.batch_first else (steps, batch)
    return torch.randn(*first, INPUT_SIZE, dtype=dtype)


def tensors_of(value: object) -> list[Tensor]:
    """Every tensor of nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [tensor for child in value for tensor in tensors_of(child)]
    return []


def skip_without_bfloat16(network: nn.Module, inputs: Tensor) -> None:
    """Skip the test where torch itself cannot run the bare network under autocast: oneDNN asks AVX-512 of an LSTM."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            network(inputs)
    except RuntimeError as error:
        if "primitive descriptor" not in str(error):
            raise
        pytest.skip("oneDNN has no LSTM in bfloat16 for this processor")

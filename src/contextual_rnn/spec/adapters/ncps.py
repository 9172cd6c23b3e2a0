"""ncps: CfC and LTC, with wirings, memory cells and a time between steps for every row.

The package gives `timespans` of a step to its cells as (B,), which they multiply with (B, units): rows and units are
confused. Here the cells get (B, 1), and `timespans` is (B, T), or (T, B) where time comes first.
"""

from __future__ import annotations

from typing import Any

from ncps.torch import LTC, CfC  # pyright: ignore[reportMissingImports]
from torch import Tensor

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import spec_of_layers, state_spec
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State


@state_spec.register(CfC)
@state_spec.register(LTC)
def _(network: Any) -> StateSpec:
    if not network.return_sequences:
        kind = type(network).__name__
        raise ValueError(f"network: expected a {kind} with return_sequences=True, got one that returns the last step")
    h, c = Leaf("h", (network.state_size,)), Leaf("c", (network.state_size,))
    tree = (h, c) if network.use_mixed else h
    return spec_of_layers(network, tree, step=_step, call="steps", per_step=("timespans",))


def _step(network: Any, inputs: Tensor, state: State, *, timespans: Tensor | None = None) -> tuple[Tensor, State]:
    elapsed = 1.0 if timespans is None else timespans.reshape(len(inputs), 1)
    if not network.use_mixed:
        output, h = network.rnn_cell(inputs, state, elapsed)
        return _output(network, output), h
    h, c = network.lstm(inputs, state)
    output, h = network.rnn_cell(inputs, h, elapsed)
    return _output(network, output), (h, c)


def _output(network: Any, output: Tensor) -> Tensor:
    return network.fc(output) if isinstance(network, CfC) else output

"""torchrl: its own LSTM and GRU, which take a mask of the real steps, and their cells."""

# torchrl is not installed where types are checked.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

from torchrl.modules import GRU, LSTM, GRUCell, LSTMCell  # pyright: ignore[reportMissingImports]

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import spec_of_cell, spec_of_layers, state_spec
from contextual_rnn.spec.spec import StateSpec


@state_spec.register(LSTM)
@state_spec.register(GRU)
def _(network: Any) -> StateSpec:
    h = Leaf("h", (network.num_layers, network.proj_size or network.hidden_size), batch_dim=1)
    c = Leaf("c", (network.num_layers, network.hidden_size), batch_dim=1)
    return spec_of_layers(network, (h, c) if isinstance(network, LSTM) else h, per_step=("mask",))


@state_spec.register(LSTMCell)
@state_spec.register(GRUCell)
def _(network: Any) -> StateSpec:
    return spec_of_cell(network, isinstance(network, LSTMCell))

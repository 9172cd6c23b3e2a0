"""torchrl: its own LSTM and GRU, which take a mask of the real steps, and their cells."""

# torchrl is not installed where types are checked.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

from torchrl.modules import GRU, LSTM, GRUCell, LSTMCell  # pyright: ignore[reportMissingImports]

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec


@state_spec.register(LSTM)
@state_spec.register(GRU)
def _(network: Any) -> StateSpec:
    h = Leaf("h", (network.num_layers, network.proj_size or network.hidden_size), batch_dim=1)
    c = Leaf("c", (network.num_layers, network.hidden_size), batch_dim=1)
    batch_dim = 0 if network.batch_first else 1
    return StateSpec(
        (h, c) if isinstance(network, LSTM) else h,
        input_batch_dim=batch_dim,
        time_dim=1 - batch_dim,
        per_step=("mask",),
    ).like(next(network.parameters()))


@state_spec.register(LSTMCell)
@state_spec.register(GRUCell)
def _(network: Any) -> StateSpec:
    h, c = Leaf("h", (network.hidden_size,)), Leaf("c", (network.hidden_size,))
    tree = (h, c) if isinstance(network, LSTMCell) else h
    return StateSpec(tree, input_ndim=2, time_dim=None).like(network.weight_ih)

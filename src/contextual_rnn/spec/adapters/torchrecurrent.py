"""torchrecurrent: layers and cells with one tensor as state, or two.

Not tauGRU: its layer also reads states of some steps ago, which it neither takes nor returns.
"""

from __future__ import annotations

from typing import Any

from torchrecurrent import TGRU, TLSTM, TGRUCell, TLSTMCell, base, tauGRU, tauGRUCell  # pyright: ignore[reportMissingImports]

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import spec_of_cell, spec_of_layers, state_spec
from contextual_rnn.spec.spec import StateSpec

_TWO_TENSORS = (base.DoubleStateRecurrentLayerBase, base.DecoupledDoubleStateRecurrentLayerBase)


@state_spec.register(base.RecurrentLayerBase)
def _(network: Any) -> StateSpec:
    shape = (network.num_layers, network.hidden_size)
    h, c = Leaf("h", shape, batch_dim=1), Leaf("c", shape, batch_dim=1)
    return spec_of_layers(network, (h, c) if isinstance(network, _TWO_TENSORS) else h, input_ndim=3)


@state_spec.register(TGRU)
@state_spec.register(TLSTM)
def _(network: Any) -> StateSpec:
    h = Leaf("h", (network.num_layers, network.hidden_size), batch_dim=1)
    last_inputs = tuple(Leaf(f"x{layer}", (cell.input_size,)) for layer, cell in enumerate(network.cells))
    return spec_of_layers(network, (h, last_inputs))


@state_spec.register(TGRUCell)
@state_spec.register(TLSTMCell)
def _(network: Any) -> StateSpec:
    tree = Leaf("h", (network.hidden_size,)), Leaf("x", (network.input_size,))
    return StateSpec(tree, input_ndim=2, time_dim=None).like(next(network.parameters()))


@state_spec.register(tauGRU)
@state_spec.register(tauGRUCell)
def _(network: Any) -> StateSpec:
    raise TypeError("network: expected one that takes all of its state, got tauGRU, which keeps earlier states inside")


@state_spec.register(base.RecurrentCellBase)
def _(network: Any) -> StateSpec:
    return spec_of_cell(network, network.uses_double_state())

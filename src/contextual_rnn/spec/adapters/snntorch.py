"""snntorch: neurons, one step a call, whose state is in several arguments.

A neuron without a size of its own has a state of the shape of its input: say it with `neuron_spec`.
"""

from __future__ import annotations

from typing import Any

import snntorch as snn  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State

# The arguments that are the state, in their order, which is that of what is returned after the spikes.
_STATE = {
    snn.Leaky: ("mem",),
    snn.Lapicque: ("mem",),
    snn.Synaptic: ("syn", "mem"),
    snn.RLeaky: ("spk", "mem"),
    snn.RSynaptic: ("spk", "syn", "mem"),
    snn.SLSTM: ("syn", "mem"),
}


def neuron_spec(network: nn.Module, shape: tuple[int, ...]) -> StateSpec:
    """The spec of a neuron whose input is (B, *shape).

        neuron.state_spec = neuron_spec(neuron, (128,))

    Raises TypeError for a network that is no such neuron, ValueError for one that keeps its state itself.
    """
    names = next((names for kind, names in _STATE.items() if isinstance(network, kind)), None)
    if names is None:
        known = ", ".join(kind.__name__ for kind in _STATE)
        raise TypeError(f"network: expected one of snntorch's {known}, got {type(network).__name__}")
    if network.init_hidden:
        kind = type(network).__name__
        raise ValueError(f"network: expected a {kind} with init_hidden=False, got one that keeps its state itself")
    leaves = [Leaf(name, shape) for name in names]
    spec = StateSpec(leaves[0] if len(leaves) == 1 else tuple(leaves), time_dim=None, call=_call)
    like = next(network.parameters(), None)
    return spec if like is None else spec.like(like)


def _call(network: Any, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    returned = network(inputs, *(state if isinstance(state, tuple) else (state,)))
    if isinstance(network, (snn.RLeaky, snn.RSynaptic)):  # the spikes are a part of the state
        return returned[0], tuple(returned)
    return returned[0], returned[1] if len(returned) == 2 else tuple(returned[1:])


@state_spec.register(snn.SLSTM)
def _(network: Any) -> StateSpec:
    if network.input_size != network.hidden_size:
        raise ValueError(
            f"network: expected an SLSTM of input_size == hidden_size, got {network.input_size} and "
            f"{network.hidden_size}: with others snntorch puts zeros in the place of the state that it is given"
        )
    return neuron_spec(network, (network.hidden_size,))

"""norse: leaky integrate-and-fire neurons (LIF) and those with an adaptive threshold (LSNN).

They start from their own numbers: the membrane potential v from v_leak, the threshold b of an LSNN from v_th. A neuron
without recurrence has a state of the shape of its input: say it with `neuron_spec`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from norse.torch.functional.lif import LIFFeedForwardState, LIFState  # pyright: ignore[reportMissingImports]
from norse.torch.functional.lsnn import LSNNFeedForwardState, LSNNState  # pyright: ignore[reportMissingImports]
from norse.torch.module.lif import (  # pyright: ignore[reportMissingImports]
    LIF,
    LIFCell,
    LIFRecurrent,
    LIFRecurrentCell,
)
from norse.torch.module.lsnn import (  # pyright: ignore[reportMissingImports]
    LSNN,
    LSNNCell,
    LSNNRecurrent,
    LSNNRecurrentCell,
)
from torch import nn

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec

_STATE = {
    LIFCell: LIFFeedForwardState,
    LIF: LIFFeedForwardState,
    LSNNCell: LSNNFeedForwardState,
    LSNN: LSNNFeedForwardState,
    LIFRecurrentCell: LIFState,
    LIFRecurrent: LIFState,
    LSNNRecurrentCell: LSNNState,
    LSNNRecurrent: LSNNState,
}
_STARTS = {"v": "v_leak", "b": "v_th"}  # of a leaf, the parameter of the neuron that it starts from; others from 0


def neuron_spec(network: nn.Module, shape: tuple[int, ...]) -> StateSpec:
    """The spec of neurons whose state is (B, *shape) each, as an input without recurrence is.

        neuron.state_spec = neuron_spec(neuron, (128,))

    Raises TypeError for a network that is no such neuron, ValueError for one that returns the states of all steps, and
    for neurons that start from different numbers.
    """
    state = next((state for kind, state in _STATE.items() if isinstance(network, kind)), None)
    if state is None:
        known = ", ".join(kind.__name__ for kind in _STATE)
        raise TypeError(f"network: expected one of norse's {known}, got {type(network).__name__}")
    layer: Any = network
    if getattr(layer, "record_states", False):
        kind = type(network).__name__
        raise ValueError(f"network: expected a {kind} with record_states=False, got one that returns every state")
    tree = state(*(Leaf(name, shape, start=_start(layer, name)) for name in state._fields))
    if isinstance(network, (LIF, LSNN, LIFRecurrent, LSNNRecurrent)):
        spec = StateSpec(tree, input_batch_dim=1, time_dim=0)
    else:
        spec = StateSpec(tree, time_dim=None)
    like = next(network.parameters(), None)
    return spec if like is None else replace(spec, dtype=like.dtype, device=like.device)


def _start(network: Any, leaf: str) -> float:
    if leaf not in _STARTS:
        return 0.0
    values = getattr(network.p, _STARTS[leaf]).flatten()
    if not bool((values == values[0]).all()):
        raise ValueError(f"network: expected one {_STARTS[leaf]} for all neurons, which they start from, got several")
    return values[0].item()


@state_spec.register(LIFRecurrentCell)
@state_spec.register(LIFRecurrent)
@state_spec.register(LSNNRecurrentCell)
@state_spec.register(LSNNRecurrent)
def _(network: Any) -> StateSpec:
    return neuron_spec(network, (int(network.hidden_size),))

"""norse: leaky integrate-and-fire neurons (LIF) and those with an adaptive threshold (LSNN).

They start from their own numbers: the membrane potential v from v_leak, the threshold b of an LSNN from v_th. A neuron
without recurrence has a state of the shape of its input: say it with `neuron_spec`.
"""

# norse is not installed where types are checked.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

from norse.torch.functional.lif import LIFFeedForwardState, LIFState  # pyright: ignore[reportMissingImports]
from norse.torch.functional.lsnn import LSNNFeedForwardState, LSNNState  # pyright: ignore[reportMissingImports]
from norse.torch.module import lif, lsnn  # pyright: ignore[reportMissingImports]
from torch import nn

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec

_CELLS = {
    lif.LIFCell: LIFFeedForwardState,
    lif.LIFRecurrentCell: LIFState,
    lsnn.LSNNCell: LSNNFeedForwardState,
    lsnn.LSNNRecurrentCell: LSNNState,
}
_LAYERS = {
    lif.LIF: LIFFeedForwardState,
    lif.LIFRecurrent: LIFState,
    lsnn.LSNN: LSNNFeedForwardState,
    lsnn.LSNNRecurrent: LSNNState,
}
_STARTS = {"v": "v_leak", "b": "v_th"}  # of a leaf, the parameter of the neuron that it starts from; others from 0


def neuron_spec(network: nn.Module, shape: tuple[int, ...]) -> StateSpec:
    """The spec of neurons whose state is (B, *shape) each, as an input without recurrence is.

        neuron.state_spec = neuron_spec(neuron, (128,))

    Raises TypeError for a network that is no such neuron, ValueError for one that returns the states of all steps, and
    for neurons that start from different numbers.
    """
    kinds = {**_CELLS, **_LAYERS}
    state = next((state for kind, state in kinds.items() if isinstance(network, kind)), None)
    if state is None:
        known = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"network: expected one of norse's {known}, got {type(network).__name__}")
    if getattr(network, "record_states", False):
        kind = type(network).__name__
        raise ValueError(f"network: expected a {kind} with record_states=False, got one that returns every state")
    tree = state(*(Leaf(name, shape, start=_start(network, name)) for name in state._fields))
    layer = isinstance(network, tuple(_LAYERS))
    spec = StateSpec(tree, input_batch_dim=1 if layer else 0, time_dim=0 if layer else None)
    like = next(network.parameters(), None)
    return spec if like is None else spec.like(like)


def _start(network: Any, leaf: str) -> float:
    if leaf not in _STARTS:
        return 0.0
    values = getattr(network.p, _STARTS[leaf]).flatten()
    if not bool((values == values[0]).all()):
        raise ValueError(f"network: expected one {_STARTS[leaf]} for all neurons, which start from it, got several")
    return values[0].item()


@state_spec.register(lif.LIFRecurrentCell)
@state_spec.register(lif.LIFRecurrent)
@state_spec.register(lsnn.LSNNRecurrentCell)
@state_spec.register(lsnn.LSNNRecurrent)
def _(network: Any) -> StateSpec:
    return neuron_spec(network, (int(network.hidden_size),))

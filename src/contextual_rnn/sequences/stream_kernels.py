"""Which networks have a native kernel of one step a call, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from contextual_rnn._torch_internals import transforms
from contextual_rnn.layers.fast_weights import FastWeightsCell, FastWeightsRNN
from contextual_rnn.layers.fast_weights_state import split_state
from contextual_rnn.ops._fast_weights import stream as fast_weights
from contextual_rnn.ops._fast_weights.choice import choose
from contextual_rnn.ops._fast_weights.dispatch import check_a0
from contextual_rnn.ops._fast_weights.options import LowRank
from contextual_rnn.ops._gated import stream as gated
from contextual_rnn.ops.native.stream import Steps
from contextual_rnn.sequences.backend import weights_of
from contextual_rnn.spec.rows import tensors_of
from contextual_rnn.spec.tree import State

_FAST_WEIGHTS = (FastWeightsRNN, FastWeightsCell)
_MODES: dict[type[nn.Module], str] = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}


def _of_layers(network: nn.RNNBase, state: State, start: State, output: Tensor) -> Steps:
    states = tensors_of(state), tensors_of(start)
    return gated.steps(network.mode, network.all_weights, *states, output, network.input_size)


def _of_a_cell(network: Any, state: State, start: State, output: Tensor) -> Steps:
    """A cell is one layer, whose state has no axis of layers."""
    mode = _MODES.get(type(network)) or f"RNN_{network.nonlinearity.upper()}"
    of_state, of_start = ([tensor[None] for tensor in tensors_of(each)] for each in (state, start))
    return gated.steps(mode, [weights_of(network)], of_state, of_start, output, network.input_size)


def _of_fast_weights(network: Any, state: Any, start: Any, output: Tensor) -> Steps:
    weights = (network.weight_ih, network.weight_hh, network.bias, network.norm_weight, network.norm_bias)
    return fast_weights.steps(*weights, network.options, state, start, output, network.input_size)


# By the class itself: a subclass may do more.
KERNELS: dict[type[nn.Module], Callable[..., Steps]] = {
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU), _of_layers),
    **dict.fromkeys((nn.RNNCell, nn.LSTMCell, nn.GRUCell), _of_a_cell),
    **dict.fromkeys(_FAST_WEIGHTS, _of_fast_weights),
}


def serves(network: nn.Module) -> bool:
    """Whether the kernel of a network in `KERNELS` can take its steps now."""
    # torch.func wraps the memory that is made in it, and torch's cells may have no input.
    if transforms() is not None or not network.input_size:
        return False
    if isinstance(network, _FAST_WEIGHTS):
        return choose(network.backend, network.weight_hh) == "cpu"
    layers_drop = isinstance(network, nn.RNNBase) and network.dropout > 0 and network.num_layers > 1
    return not (layers_drop and network.training)


def whole_state(network: nn.Module, state: State) -> State:
    """A state as the kernel of the network has it: of fast weights with A, as a matrix.

    Raises ValueError or TypeError for an A that does not fit.
    """
    if not isinstance(network, _FAST_WEIGHTS):
        return state
    h, a = split_state(state)
    assert h is not None
    check_a0(a, h.shape[0], h.shape[1], h)
    if a is None:
        return h, h.new_zeros(*h.shape, h.shape[1])
    return h, a.dense() if isinstance(a, LowRank) else a

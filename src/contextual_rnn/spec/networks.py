"""Which state does a network carry? The networks that are known, and how to register others."""

from __future__ import annotations

from functools import singledispatch
from importlib import import_module
from typing import Any

from torch import nn

from contextual_rnn.spec.adapters import ADAPTERS
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.spec import StateSpec as StateSpec
from contextual_rnn.spec.tree import State


@singledispatch
def state_spec(network: nn.Module) -> StateSpec:
    """The spec of the state that `network` takes.

    Known are nn.RNN, nn.LSTM, nn.GRU, their cells, subclasses of these, our fast weights and `ContextualRNN`. A network
    of your own is registered in three lines:

        @state_spec.register
        def _(network: MyNetwork) -> StateSpec:
            return StateSpec(Leaf("h", (network.hidden_size,)))

    A module around a network that is known returns `state_spec(network.lstm)` there. A single network may have its own:
    `network.state_spec = StateSpec(...)`. Networks of ncps, torchrecurrent, minGRU-pytorch, s5-pytorch, xlstm,
    torchrl and flash-linear-attention are registered too, and those of snntorch and norse that know their size.

    Raises TypeError for a network that is not registered.
    """
    if isinstance(own := getattr(network, "state_spec", None), StateSpec):
        return own
    if _is_adapted(type(network)):
        return state_spec(network)
    kind = type(network).__name__
    if not isinstance(network, nn.Module):
        received = f"the class {network.__name__}" if isinstance(network, type) else kind
        raise TypeError(f"network: expected a module with a registered state spec, or a StateSpec, got {received}")
    if type(network).__module__.startswith("transformers."):
        raise TypeError(
            f"network: expected one with a registered state spec, got {kind} of transformers; use language_model_spec "
            "and ContextualLanguageModel of contextual_rnn.language"
        )
    raise TypeError(
        f"network: expected one with a registered state spec, got {kind}; register it in three lines:\n\n"
        f"    @state_spec.register\n    def _(network: {kind}) -> StateSpec:\n        return {_likely_spec(network)}"
    )


def _is_adapted(kind: type) -> bool:
    """Whether an adapter of the package of this class registers it."""
    for base in kind.__mro__:
        adapter = ADAPTERS.get(base.__module__.partition(".")[0])
        if adapter is not None:
            import_module(adapter)
    return state_spec.dispatch(kind) is not state_spec.dispatch(object)


def spec_of(network: Any) -> StateSpec:
    """`state_spec(network)`; TypeError too where what is registered for it returns something else than a spec."""
    spec = state_spec(network)
    if not isinstance(spec, StateSpec):
        kind = type(network).__name__
        raise TypeError(f"network: expected a registered function that returns a StateSpec, got {spec!r} for {kind}")
    return spec


def _likely_spec(network: object) -> str:
    """The spec to register, in words; what a subclass of torch's base classes carries is read off its sizes."""
    if isinstance(network, nn.RNNBase):
        layers = "2 * network.num_layers" if network.bidirectional else "network.num_layers"
        width = "network.proj_size" if network.proj_size else "network.hidden_size"
        h = f'Leaf("h", ({layers}, {width}), batch_dim=1)'
        c = f'Leaf("c", ({layers}, network.hidden_size), batch_dim=1)'
        axes = "time_dim=1" if network.batch_first else "input_batch_dim=1, time_dim=0"
        options = f", input_ndim=3, {axes}{', bidirectional=True' if network.bidirectional else ''}"
        both = network.mode == "LSTM"
    else:
        h, c, options, both = 'Leaf("h", (network.hidden_size,))', 'Leaf("c", (network.hidden_size,))', "", False
        if isinstance(network, nn.RNNCellBase):
            options, both = ", input_ndim=2", network.weight_ih.shape[0] == 4 * network.hidden_size
    return f"StateSpec({f'({h}, {c})' if both else h}{options})"


@state_spec.register
def _(network: StateSpec) -> StateSpec:
    return network


@state_spec.register(nn.RNN)
@state_spec.register(nn.LSTM)
@state_spec.register(nn.GRU)
def _(network: nn.RNN | nn.LSTM | nn.GRU) -> StateSpec:
    layers = network.num_layers * (2 if network.bidirectional else 1)
    h = Leaf("h", (layers, network.proj_size or network.hidden_size), batch_dim=1)
    c = Leaf("c", (layers, network.hidden_size), batch_dim=1)
    tree = (h, c) if isinstance(network, nn.LSTM) else h
    return spec_of_layers(network, tree, input_ndim=3, bidirectional=network.bidirectional)


@state_spec.register(nn.RNNCell)
@state_spec.register(nn.LSTMCell)
@state_spec.register(nn.GRUCell)
def _(network: nn.RNNCell | nn.LSTMCell | nn.GRUCell) -> StateSpec:
    return spec_of_cell(network, isinstance(network, nn.LSTMCell))


def spec_of_layers(network: Any, tree: State, **options: Any) -> StateSpec:
    """The spec of a network of sequences that has `batch_first`, as torch's have it."""
    batch_dim = 0 if network.batch_first else 1
    spec = StateSpec(tree, input_batch_dim=batch_dim, time_dim=1 - batch_dim, **options)
    return spec.like(next(network.parameters()))


def spec_of_cell(network: Any, two_tensors: bool) -> StateSpec:
    """The spec of a cell as torch's are: its state is h or (h, c)."""
    h, c = Leaf("h", (network.hidden_size,)), Leaf("c", (network.hidden_size,))
    return StateSpec((h, c) if two_tensors else h, input_ndim=2, time_dim=None).like(next(network.parameters()))

"""Training on several processes: a state attached too late would have gradients of its own process alone."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contextual_rnn._numbers import listed
from contextual_rnn._sharded import is_sharded
from contextual_rnn._torch_internals import data_parallel_around

# The parameters whose gradients are averaged, which are kept as long as the module is.
_averaged: WeakKeyDictionary[DistributedDataParallel, frozenset[int]] = WeakKeyDictionary()


def check_not_sharded(network: nn.Module, state: nn.Module) -> None:
    """Refuse a state that is not sharded for a network that is."""
    if any(map(is_sharded, network.parameters())) and not all(map(is_sharded, state.parameters())):
        raise ValueError(
            f"network: expected one that fully_shard has not sharded yet, got {type(network).__name__} with sharded "
            "parameters: attach the state first, so that its gradients are those of all processes"
        )


def check_averaged(network: nn.Module, state: nn.Module) -> None:
    """Refuse a state that the DistributedDataParallel around the call does not know."""
    around = data_parallel_around()
    if around is None:
        return
    if around not in _averaged:  # a look at all parameters for every call would take long in a large model
        _averaged[around] = frozenset(map(id, around._module_parameters))  # pyright: ignore[reportPrivateUsage]
    late = {id(parameter) for parameter in state.parameters() if parameter.requires_grad} - _averaged[around]
    if not late:
        return
    names = {name for name, parameter in around.module.named_parameters() if id(parameter) in late}
    if late_names := sorted(names - set(around.parameters_to_ignore)):
        raise ValueError(
            f"initial_state: expected it to be attached to {type(network).__name__} before DistributedDataParallel is "
            f"made, got one that was attached later, with gradients of this process alone: {listed(late_names)}"
        )

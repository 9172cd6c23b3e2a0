"""The paper's initial states by name, for the network of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from contextual_rnn import ConstantState, ContextState, FreeState, NormalState, StateSpec
from contextual_rnn.states import InitialState


def initial_state(
    name: str, spec: StateSpec, encoder: Callable[[], nn.Module], *, features: int, **of_normal: Any
) -> InitialState:
    """The state `name` for `spec`; `encoder` makes the context network g of one that has a context."""
    return {
        "zero": lambda: ConstantState(spec),
        "free": lambda: FreeState(spec),
        "context": lambda: ContextState(spec, encoder(), features=features),
        "normal": lambda: NormalState(spec, encoder(), features=features, **of_normal),
    }[name]()

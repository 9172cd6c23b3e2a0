"""Another initial state for every leaf of a network's state."""

from __future__ import annotations

from typing import Any

from torch import nn

from contextual_rnn._numbers import listed
from contextual_rnn._sharded import as_forward
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.moments import Moments


class LeafwiseState(InitialState):
    """Another initial state for every leaf, such as h from a context and c constant.

        spec = state_spec(lstm)
        LeafwiseState(spec, h=ContextState(spec["h"], encoder), c=ConstantState(spec["c"]))

    Raises ValueError unless there is exactly one state for each leaf, made for that leaf's spec, and TypeError for
    what is no initial state.
    """

    def __init__(self, network: nn.Module | StateSpec, **states: InitialState):
        super().__init__(network)
        leaves = {leaf.name: leaf for leaf in self.spec}
        if set(states) != set(leaves):
            raise ValueError(f"states: expected one for each of {listed(leaves)}, got {listed(states) or 'none'}")
        for name, state in states.items():
            if not isinstance(state, InitialState):
                raise TypeError(f"{name}: expected an InitialState, got {type(state).__name__}")
            self._refuse_latent(name, state)
            if list(state.spec) != [leaves[name]]:
                raise ValueError(
                    f"{name}: expected a state made for spec[{name!r}], {leaves[name]}, got one for {list(state.spec)}"
                )
        self.states = nn.ModuleDict(states)

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        return self._computed(context, batch_size, batched)

    def _computed(
        self, context: Any, batch_size: int | None, batched: bool | None, precise: bool = False
    ) -> dict[str, Moments]:
        moments: dict[str, Moments] = {}
        # Contextual states are evaluated first: they determine the batch size of the others.
        for state in sorted(self._states(), key=lambda state: not state.reads_context):
            part = state._precise_moments if precise else state._moments
            moments |= as_forward(state, part)(context, batch_size, batched)
            if state.reads_context:
                (leaf,) = state.spec
                batch_size = rows_of(leaf, moments[leaf.name].mean)
                batched = batch_size is not None
        return moments

    def _constants(self, batch_size: int | None) -> dict[str, Moments]:
        parts = [state._constants(batch_size) for state in self._states()]
        return {name: leaf for part in parts for name, leaf in part.items()}

    def reset_parameters(self) -> None:
        for state in self._states():
            state.reset_parameters()

    def extra_repr(self) -> str:
        return self.spec.describe()

    @property
    def reads_context(self) -> bool:
        return any(state.reads_context for state in self._states())

    def _states(self) -> list[InitialState]:
        return [state for state in self.states.values() if isinstance(state, InitialState)]

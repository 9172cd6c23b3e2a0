"""minGRU-pytorch: minGRU, whose state is positive: over a sequence it takes its logarithm.

Not minLSTM: over a sequence it takes another function of a state that it receives than in a single step.
"""

from __future__ import annotations

from typing import Any

from minGRU_pytorch.minGRU import minGRU  # pyright: ignore[reportMissingImports]
from minGRU_pytorch.minLSTM import minLSTM  # pyright: ignore[reportMissingImports]
from torch import Tensor

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State


@state_spec.register(minGRU)
def _(network: Any) -> StateSpec:
    weight = network.to_hidden_and_gate.weight
    h = Leaf("h", (1, len(weight) // 2), domain="positive")
    return StateSpec(h, input_ndim=3, time_dim=1, call=_call).like(weight)


def _call(network: Any, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    return network(inputs, state, return_next_prev_hidden=True)


@state_spec.register(minLSTM)
def _(network: Any) -> StateSpec:
    raise TypeError(
        "network: expected one that continues a sequence from its state, got minLSTM, which reads it in another way "
        "over a sequence than in a step"
    )

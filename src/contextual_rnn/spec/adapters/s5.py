"""s5-pytorch: S5, whose state is complex, with a step size for every sequence or every step.

Not liquid ones: the package gives a state that it receives to the first step without the part that the input has in the
decay, so that a sequence in two pieces is another than the whole. Not bidirectional ones, which take no state.
"""

from __future__ import annotations

from typing import Any

from s5 import S5, S5Block  # pyright: ignore[reportMissingImports]
from torch import Tensor

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State


@state_spec.register(S5)
@state_spec.register(S5Block)
def _(network: Any) -> StateSpec:
    ssm = network.s5.seq if isinstance(network, S5Block) else network.seq
    kind = type(network).__name__
    for name in ("liquid", "bidir"):
        if getattr(ssm, name):
            raise ValueError(f"network: expected an {kind} with {name}=False, whose state can be given, got True")
    x = Leaf("x", (len(ssm.Lambda),), dtype=ssm.Lambda.dtype)
    per_step = ("step_scale",) if isinstance(network, S5) else ()
    return StateSpec(x, input_ndim=3, time_dim=1, call=_call, per_step=per_step).like(ssm.D)


def _call(network: Any, inputs: Tensor, state: State, **step_scale: Tensor) -> tuple[Tensor, State]:
    return network(inputs, state=state, return_state=True, **step_scale)

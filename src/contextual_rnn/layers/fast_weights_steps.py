"""One step of a network with fast weights, with A in the state."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from contextual_rnn.spec.tree import State


def cell_step(network: nn.Module, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """One step of `FastWeightsCell`, or of a module around one, which may return an output beside the state."""
    returned = network(inputs, state)
    return returned if isinstance(returned[1], (tuple, list)) else (returned[0], returned)


@dataclass(frozen=True)
class SequenceStep:
    """One step of `FastWeightsRNN`, or of a module around one; `time` is the time axis of its input."""

    time: int

    def __call__(self, network: nn.Module, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        options = {"return_fast_weights": True} if hasattr(network, "return_fast_weights") else {}
        output, state = network(inputs.unsqueeze(self.time), state, **options)
        if state[1] is None:
            kind = type(network).__name__
            raise ValueError(
                f"network: expected {kind} to return A, which the next step reads, got None; give the FastWeightsRNN "
                "in it return_fast_weights=True"
            )
        return output.squeeze(self.time), state

"""The steps of a network from a state that is carried on: torch's own, or those of a stream."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from contextual_rnn._sharded import as_forward
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.sequences.stream import Stream
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.steps import step_of
from contextual_rnn.spec.tree import State

STEPS_BEFORE_A_STREAM = 2  # making one takes about as long as this many steps of torch


class NetworkSteps:
    """One step a call: the input of one step and a state to the output and the next state.

    Where a native kernel serves the network, a stream takes over once the same rows have gone on for
    `STEPS_BEFORE_A_STREAM` steps: the numbers are the same to rounding. Rows that change more often, as in a beam
    search, keep torch's steps. A step may overwrite the state that the step before has returned.
    """

    def __init__(self, model: ContextualRNN):
        self._model = model
        self._stream: Stream | None = None
        self._state: State = None  # that the last step has returned
        self._steps_taken = 0  # by the same rows

    def __call__(
        self, spec: StateSpec, inputs: Tensor, state: State, arguments: Mapping[str, Any]
    ) -> tuple[Tensor, State]:
        if state is not self._state:
            self._stream, self._steps_taken = None, 0
        elif self._steps_taken == STEPS_BEFORE_A_STREAM:
            self._stream = self._native_stream(state)
        output = None if arguments else self._streamed(inputs)
        if output is None or self._stream is None:
            self._stream = None
            run = as_forward(self._model, step_of)
            output, self._state = run(self._model.network, spec, inputs, state, **arguments)
        else:
            self._state = self._stream._state
        self._steps_taken += 1
        return output, self._state

    def _native_stream(self, state: State) -> Stream | None:
        try:
            stream = self._model.stream(hx=state)
        except ValueError:  # backend="native" where the kernel cannot serve
            return None
        return stream if stream.backend == "native" else None

    def _streamed(self, inputs: Tensor) -> Tensor | None:
        if self._stream is None:
            return None
        try:
            return self._stream(inputs).clone()
        except (TypeError, ValueError):  # torch's step says what is wrong with the input
            return None

"""What batches and streams need of a model."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from contextual_rnn.sequences.backend import SequenceBackend
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.tree import State


class Model(Protocol):
    """The interface of a model, as `ContextualRNN` has it."""

    _spec: StateSpec
    backend: SequenceBackend

    @property
    def network(self) -> nn.Module: ...

    @property
    def initial_state(self) -> nn.Module: ...

    def _start(
        self,
        context: Any,
        batch_size: int | None,
        generator: torch.Generator | None,
        rows: Tensor | None = None,
        *,
        by_context: bool = False,
    ) -> State: ...

    def _known_spec(self, step: Any) -> StateSpec: ...

    def _check_state(self, state: State, batch_size: int) -> None: ...

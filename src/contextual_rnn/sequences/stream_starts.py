"""The initial states of the rows of a stream, each for the context that its row was given last."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contextual_rnn._sharded import as_forward
from contextual_rnn.sequences.model import Model
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.rows import take_of_all
from contextual_rnn.spec.tree import State


def start_of_contexts(model: Model, context: Any, generator: torch.Generator | None) -> tuple[State, int]:
    """The initial states for a batch of contexts, and how many rows they have."""
    with torch.no_grad():
        start = as_forward(model, model._start)  # pyright: ignore[reportArgumentType]
        state = start(context, None, generator, by_context=True)
    leaves = model._spec.check(state, "state")
    for leaf in model._spec:
        if (rows := rows_of(leaf, leaves[leaf.name])) is not None:
            return state, rows
    received = "no context" if context is None else "the context of one example"
    raise ValueError(f"batch_size: expected the number of rows, or a batch of contexts, got {received}")


class Starts:
    """`context` is that of all rows at first.

    Contexts of any structure are kept whole; rows are picked of the states.
    """

    def __init__(self, model: Model, context: Any, batch: int, generator: torch.Generator | None):
        self._model, self._generator = model, generator
        self._contexts = [(context, batch)]  # and how many rows each is of
        self._source = torch.zeros(batch, dtype=torch.int64, device="cpu")  # the context of each row, and its row there
        self._row = torch.arange(batch, device="cpu")

    def give(self, rows: Tensor, context: Any) -> None:
        """New contexts for `rows`, (N,) integers, in their order."""
        self._source[rows], self._row[rows] = len(self._contexts), torch.arange(len(rows), device="cpu")
        self._contexts.append((context, len(rows)))
        in_use, self._source = self._source.unique(return_inverse=True)
        self._contexts = [self._contexts[number] for number in in_use.tolist()] or self._contexts[-1:]

    def of(self, rows: Tensor) -> State:
        """The initial states of `rows`, (N,) integers; each a new draw where they are random."""
        source, row = self._source[rows], self._row[rows]
        places, states = [], []
        for number, (context, size) in enumerate(self._contexts):
            place = (source == number).nonzero()[:, 0]
            if len(place) or not len(rows):
                states.append(self._model._start(context, size, self._generator, row[place]))
                places.append(place)
        if len(states) == 1:
            return states[0]
        order, counts = torch.cat(places).argsort(), [len(place) for place in places]
        return take_of_all(self._model._spec.tree, order, states, counts)

"""The initial states of the rows of a stream, each for the context that its row was given last."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._sharded import as_forward
from contextual_rnn.sequences.model import Model
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.rows import put_together
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

    def given(self, rows: Tensor, context: Any) -> Starts:
        """The same with new contexts for `rows`, (N,) integers, in their order."""
        starts, contexts = copy(self), [*self._contexts, (context, len(rows))]
        places = torch.arange(len(rows), device="cpu")
        source = self._source.index_fill(0, rows, len(self._contexts))
        in_use, starts._source = source.unique(return_inverse=True)
        starts._row = self._row.index_copy(0, rows, places)
        starts._contexts = [contexts[number] for number in in_use.tolist()] or contexts[-1:]
        return starts

    @property
    def known(self) -> Tensor:
        """The rows that have a context, (N,) integers; all of a state that reads none."""
        reads = self._model.initial_state.reads_context
        known = torch.tensor([not reads or context is not None for context, _ in self._contexts], device="cpu")
        return known[self._source].nonzero()[:, 0]

    def of(self, rows: Tensor) -> State:
        """The initial states of `rows`, (N,) integers; each a new draw where they are random."""
        source, row = self._source[rows], self._row[rows]
        sources: list[tuple[Tensor, State]] = []
        numbers, counts = source.unique(return_counts=True)
        places = source.argsort(stable=True).split(counts.tolist() or [0])
        for number, place in zip(numbers.tolist() or [0], places, strict=True):
            context, size = self._contexts[number]
            sources.append((place, self._model._start(context, size, self._generator, row[place])))
        return put_together(self._model._spec.tree, sources)

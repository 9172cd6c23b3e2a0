"""Rows of the states of a batch: which of them go on, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from contextual_rnn._tree import Leaf, State
from contextual_rnn.ops import LowRank


def take(tree: State, index: Tensor, state: State) -> State:
    """The rows `index` of a state, as the network takes it."""
    return _rows(tree, index, [state], [0])


def take_of_both(tree: State, index: Tensor, first: State, first_rows: int, second: State, second_rows: int) -> State:
    """The rows `index` of two states, those of the second counted on from those of the first.

    Where `tree` has None, tensors have the batch first. Fast weights may be of another form there in each state, None
    (zero), low rank or a matrix; then they become matrices.
    """
    return _rows(tree, index, [first, second], [first_rows, second_rows])


def _rows(tree: State, index: Tensor, states: list[State], counts: list[int]) -> State:
    if isinstance(tree, Leaf):
        return _pick(states, tree.batch_dim, index)
    if isinstance(tree, Mapping):
        return {name: _rows(child, index, [state[name] for state in states], counts) for name, child in tree.items()}
    if isinstance(tree, tuple | list):
        children = [_rows(child, index, [s[k] for s in states], counts) for k, child in enumerate(tree)]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    if all(state is None for state in states):
        return None
    if all(isinstance(state, LowRank) for state in states) and len({state.left.shape[1] for state in states}) == 1:
        return LowRank(*(_pick(factors, 0, index) for factors in zip(*states, strict=True)))
    return _pick(_matrices(states, counts), 0, index)


def _matrices(states: list[State], counts: list[int]) -> list[Tensor]:
    dense = [state.dense() if isinstance(state, LowRank) else state for state in states]
    for state in dense:
        if not isinstance(state, Tensor | None):
            raise TypeError(f"hx: expected a tensor, LowRank or None where it is None, got {type(state).__name__}")
    like = next(state for state in dense if state is not None)
    return [like.new_zeros(n, *like.shape[1:]) if s is None else s for s, n in zip(dense, counts, strict=True)]


def _pick(tensors: Sequence[Tensor], dim: int, index: Tensor) -> Tensor:
    joined = tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim)
    return joined.index_select(dim, index.to(joined.device))

"""Rows of the states of a batch: which of them go on, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from contextual_rnn._tensors import check_dense, described
from contextual_rnn.ops import LowRank
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.tree import State, children_of, matching_children, rebuilt


def take(tree: State, index: Tensor, state: State) -> State:
    """The rows `index` of a state, as the network takes it."""
    return combine(tree, [state], _rows(index), [0])


def read_rows(tree: State, index: Tensor, state: State) -> State:
    """The same to read alone: of rows that are one in memory, those taken are too."""

    def read(tensors: Sequence[Tensor], dim: int) -> Tensor:
        (tensor,) = tensors
        if tensor.stride(dim) or tensor.shape[dim] < 2:
            return _rows(index)(tensors, dim)
        shape = [*tensor.shape[:dim], len(index), *tensor.shape[dim + 1 :]]
        return tensor.narrow(dim, 0, 1).expand(shape)

    return combine(tree, [state], read, [0])


def take_of_all(tree: State, index: Tensor, states: Sequence[State], counts: Sequence[int]) -> State:
    """The rows `index` of several states, each of `counts` rows and counted on from those before.

    Where `tree` has None, tensors have the batch first. Fast weights may be of another form there in each state, None
    (zero), low rank or a matrix; then they become matrices.
    """
    return combine(tree, states, _rows(index), counts)


def split(tree: State, state: State, sizes: Sequence[int]) -> list[State]:
    """A state as states of `sizes` rows, one after the other; one node of autograd, whose time is that of one pass."""
    parts: list[Sequence[Tensor]] = []

    def cut(tensors: Sequence[Tensor], dim: int) -> Tensor:
        parts.append(tensors[0].split(list(sizes), dim))
        return tensors[0]

    combine(tree, [state], cut, [sum(sizes)])

    def part(number: int) -> State:
        leaves = iter(parts)
        return combine(tree, [state], lambda tensors, dim: next(leaves)[number], [sum(sizes)])

    return [part(number) for number in range(len(sizes))]


def put_together(tree: State, sources: Sequence[tuple[Tensor, State]]) -> State:
    """One state of several, each with the rows (N,) that it has in it."""
    if len(sources) == 1:
        return sources[0][1]
    place, counts = torch.cat([rows for rows, _ in sources]).argsort(), [len(rows) for rows, _ in sources]
    return take_of_all(tree, place, [state for _, state in sources], counts)


def write_rows(tree: State, state: State, rows: Tensor, new: State, num_rows: int) -> State:
    """`state`, of `num_rows` rows, with those of `new` in place of its rows `rows`."""
    place = torch.arange(num_rows, device=rows.device)
    place[rows] = num_rows + torch.arange(len(rows), device=rows.device)
    return take_of_all(tree, place, [state, new], [num_rows, len(rows)])


Function = Callable[[Sequence[Tensor], int], Tensor]


def combine(
    tree: State, states: Sequence[State], function: Function, counts: Sequence[int], factors: bool = True
) -> State:
    """One state of several: `function(tensors, batch_dim)` of the tensors of each leaf.

    Where `tree` has None it is of tensors with the batch first, of the `counts` rows of each state. Fast weights may
    be of another form there in each state, None (zero), low rank or a matrix; then they become matrices. Of low rank in
    all states they stay so, provided that `function` can be applied to the `factors` one by one.
    """
    if isinstance(tree, Leaf):
        return function(states, tree.batch_dim)
    if isinstance(tree, (tuple, list, Mapping)) and not isinstance(tree, LowRank):  # A may be of another form in each
        parts = matching_children(tree, *states)
        return rebuilt(tree, [combine(child, children, function, counts, factors) for child, *children in parts])
    if all(state is None for state in states):
        return None
    ranks = {state.left.shape[-2] if isinstance(state, LowRank) else None for state in states}
    if factors and len(ranks) == 1 and None not in ranks:
        return LowRank(*(function(each, 0) for each in zip(*states, strict=True)))
    return function(_matrices(states, counts), 0)


def map_tensors(function: Callable[[Tensor], Tensor], state: State) -> State:
    """A state of any structure with every tensor replaced by `function(tensor)`."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, (tuple, list, Mapping)):
        return rebuilt(state, [map_tensors(function, child) for child in children_of(state)])
    return state


def tensors_of(state: State) -> list[Tensor]:
    """Every tensor in a state."""
    tensors: list[Tensor] = []
    map_tensors(lambda tensor: tensors.append(tensor) or tensor, state)
    return tensors


def as_returned(tree: State, state: State, returned: State) -> State:
    """`state` with None where `tree` has None and `returned` too: fast weights that were not asked for."""
    if tree is None or isinstance(tree, LowRank):
        return None if returned is None else state
    if isinstance(tree, (tuple, list, Mapping)):
        return rebuilt(tree, [as_returned(*children) for children in matching_children(tree, state, returned)])
    return state


def has_none(tree: State) -> bool:
    """Whether there is None in a tree: something that the network carries and the spec leaves open."""
    if isinstance(tree, (tuple, list, Mapping)) and not isinstance(tree, LowRank):
        return any(map(has_none, children_of(tree)))
    return tree is None or isinstance(tree, LowRank)


def open_parts(tree: State, state: State) -> Iterator[State]:
    """What a state has where the tree has None."""
    if isinstance(tree, (tuple, list, Mapping)):
        for child, part in matching_children(tree, state):
            yield from open_parts(child, part)
    elif tree is None:
        yield state


def has_more(tree: State, state: State) -> bool:
    """Whether there is something where the tree has None."""
    return any(part is not None for part in open_parts(tree, state))


def check_open_parts(name: str, tree: State, state: State, rows: int | None = None) -> None:
    """Refuse sparse and nested tensors where the tree has None; of states that are cut, all but `rows` rows."""
    for part in open_parts(tree, state):
        if part is not None and rows is not None:
            check_open_part(name, part, rows)
        for tensor in tensors_of(part):
            check_dense(name, tensor)


def check_open_part(name: str, part: State, batch: int | None) -> None:
    """Refuse what is neither a tensor of as many rows as the leaves nor `LowRank` of two such of one shape."""
    for each in part if isinstance(part, LowRank) else (part,):
        check_dense(name, each, "a tensor, LowRank or None where the spec has None")
        if batch is not None and (each.ndim == 0 or each.shape[0] != batch):
            raise ValueError(f"{name}: expected {batch} rows where the spec has None, got {tuple(each.shape)}")
    if isinstance(part, LowRank):
        shape = "(r, H)" if batch is None else f"({batch}, r, H)"
        left, right = map(described, part)
        if left != right or part.left.ndim != shape.count(",") + 1:
            raise ValueError(f"{name}: expected LowRank of one dtype and shape {shape}, got {left} and {right}")


def _matrices(states: Sequence[State], counts: Sequence[int]) -> list[Tensor]:
    dense = [state.dense() if isinstance(state, LowRank) else state for state in states]
    for state in dense:
        if not isinstance(state, (Tensor, type(None))):
            raise TypeError(f"hx: expected a tensor, LowRank or None where it is None, got {type(state).__name__}")
    like = next(state for state in dense if state is not None)
    return [like.new_zeros(n, *like.shape[1:]) if s is None else s for s, n in zip(dense, counts, strict=True)]


def _rows(index: Tensor) -> Function:
    """The rows `index` of tensors one after the other."""

    def pick(tensors: Sequence[Tensor], dim: int) -> Tensor:
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim)
        return joined.index_select(dim, index.to(joined.device))

    return pick

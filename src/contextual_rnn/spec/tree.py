"""The parts of a state and how they hang together: leaves in nested tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import shortened
from contextual_rnn._tensors import check_dense
from contextual_rnn.spec.leaf import Leaf

# A state is whatever the network takes: a tensor, or tensors (and None) in tuples, lists and dicts.
State = Any
MOST_NESTED = 100  # containers around a leaf
_MOST_DESCRIBED = 8  # children of a container, in an error message


def leaves_of(tree: State, depth: int = 0) -> Iterator[Leaf]:
    """The leaves of a tree in order; TypeError for anything else in it, ValueError for a tree nested too deeply."""
    if isinstance(tree, Leaf):
        yield tree
    elif depth == MOST_NESTED and isinstance(tree, (Mapping, tuple, list)):
        raise ValueError(f"tree: expected at most {MOST_NESTED} containers around a leaf, got more")
    elif isinstance(tree, (Mapping, tuple, list)):
        for child in children_of(tree):
            yield from leaves_of(child, depth + 1)
    elif tree is not None:
        raise TypeError(f"tree: expected Leaf, None, tuple, list or dict, got {type(tree).__name__}")


def map_leaves(function: Callable[[Leaf], Any], tree: State) -> State:
    """The tree with every leaf replaced by `function(leaf)`."""
    if isinstance(tree, Leaf):
        return function(tree)
    if isinstance(tree, (tuple, list, Mapping)):
        return rebuilt(tree, [map_leaves(function, child) for child in children_of(tree)])
    return None


def rebuilt(tree: State, children: list[State]) -> State:
    """A container like `tree` with other children."""
    if isinstance(tree, (tuple, list)):
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    return dict(zip(tree, children, strict=True))


def children_of(tree: State) -> Iterable[State]:
    """The children of a container."""
    return tree if isinstance(tree, (tuple, list)) else tree.values()


def matching_children(tree: State, *others: State) -> list[tuple[State, ...]]:
    """The children of containers that are alike, those of one place together."""
    if isinstance(tree, (tuple, list)):
        return list(zip(tree, *others, strict=True))
    return [(child, *(other[name] for other in others)) for name, child in tree.items()]


def _are_alike(tree: State, other: State) -> bool:
    """Whether `other` is a container as `tree` is, with as many children, or those of the same names."""
    if isinstance(tree, Mapping):
        return isinstance(other, Mapping) and set(other) == set(tree)
    return isinstance(other, (tuple, list)) and len(other) == len(tree)


def pack(tree: State, leaves: Mapping[str, Tensor]) -> State:
    """Leaves that are known to fit, each (B, *shape) or `shape`, put together as the network takes them."""
    return map_leaves(lambda leaf: _to_network(leaf, leaves[leaf.name]), tree)


def _to_network(leaf: Leaf, tensor: Tensor) -> Tensor:
    """(B, *shape) or `shape` in the network's layout and dtype."""
    batched = tensor.ndim > len(leaf.shape)
    if leaf.dtype is not None:
        tensor = tensor.to(leaf.dtype)
    if leaf.repeat > 1:
        axis = 1 if batched else 0
        tensor = tensor.expand(*tensor.shape[:axis], leaf.repeat, *tensor.shape[axis + 1 :])
    if batched and leaf.batch_dim:
        tensor = tensor.movedim(0, leaf.batch_dim)
    return tensor if leaf.tiled_in_place else tensor.contiguous()


def check_leaves(expected: Iterable[Leaf], leaves: Mapping[str, Tensor]) -> None:
    """Refuse anything but a dense tensor for each leaf, all (B, *shape) or all `shape`."""
    if not isinstance(leaves, Mapping):
        raise TypeError(f"leaves: expected a dict from names to tensors, got {type(leaves).__name__}")
    batches = set()
    for leaf in expected:
        if leaf.name not in leaves:
            raise ValueError(f"leaves: expected leaf {leaf.name!r}, got {shortened(list(leaves))}")
        tensor = leaves[leaf.name]
        check_dense("leaves", tensor, f"a tensor for {leaf.name!r}")
        batch, shape = tuple(tensor.shape[: -len(leaf.shape)]), tuple(tensor.shape[-len(leaf.shape) :])
        if shape != leaf.shape or len(batch) > 1:
            shapes = f"{leaf.shape}, with a batch before or not"
            raise ValueError(f"leaves: expected leaf {leaf.name!r} of shape {shapes}, got {tuple(tensor.shape)}")
        batches.add(batch)
    if len(batches) > 1:
        raise ValueError(f"leaves: expected one batch size, got {' and '.join(map(str, sorted(batches)))}")


def zip_leaves(tree: State, state: State, name: str, whole: State = None) -> list[tuple[Leaf, Tensor]]:
    """Each leaf with its tensor of `state`; TypeError for argument `name` where the structures differ.

    A list, as torch.compile of torch 2.15 cannot trace generators that call themselves.
    """
    whole = tree if whole is None else whole  # what the error shows
    if isinstance(tree, Leaf):
        if not isinstance(state, Tensor):
            raise TypeError(f"{name}: expected {describe(whole)}, got {describe_state(state)} for leaf {tree.name!r}")
        return [(tree, state)]
    if not isinstance(tree, (Mapping, tuple, list)):
        return []
    if not _are_alike(tree, state):
        raise TypeError(f"{name}: expected {describe(whole)}, got {describe_state(state)}")
    children = matching_children(tree, state)
    return [pair for child, value in children for pair in zip_leaves(child, value, name, whole)]


def matches(tree: State, state: State, batch_size: int | None, like: Tensor | None) -> bool:
    """Whether `state` is what `tree` says, of this batch size, on the device of `like`, of its dtype or the leaf's own.

    A quick answer for every call; `zip_leaves` and `StateSpec.unpack` say what is wrong.
    """
    if isinstance(tree, Leaf):
        # Every step of a loop pays for this: of what does the same, the fastest.
        shape, axis = tree.shape if tree.repeat == 1 else tree.network_shape, tree.batch_dim
        if batch_size is not None:
            shape = (batch_size, *shape) if axis == 0 else (*shape[:axis], batch_size, *shape[axis:])
        return (
            isinstance(state, Tensor)
            and state.layout is torch.strided
            and not state.is_nested
            and state.shape == shape
            and (like is None or (state.dtype == (tree.dtype or like.dtype) and state.device == like.device))
        )
    if isinstance(tree, (tuple, list)):  # tuple | list would be made anew each time
        if not isinstance(state, (tuple, list)) or len(tree) != len(state):
            return False
        for child, value in zip(tree, state):  # noqa: B905, SIM110
            if not matches(child, value, batch_size, like):
                return False
        return True
    if isinstance(tree, Mapping):
        return (
            isinstance(state, Mapping)
            and tree.keys() == state.keys()
            and all(matches(child, state[name], batch_size, like) for name, child in tree.items())
        )
    return _is_dense(state)


def _is_dense(state: State) -> bool:
    """Whether no tensor among what the tree leaves open is sparse or nested."""
    if isinstance(state, Tensor):
        return state.layout is torch.strided and not state.is_nested
    return not isinstance(state, (tuple, list)) or all(map(_is_dense, state))


def fits(tree: State, other: State) -> bool:
    """Whether a state of the tree `other` can stand for one of `tree`; where `tree` has None, anything can."""
    if tree is None:
        return True
    if isinstance(tree, Leaf):
        return isinstance(other, Leaf) and all(
            getattr(tree, name) == getattr(other, name) for name in ("network_shape", "batch_dim", "dtype", "domain")
        )
    return _are_alike(tree, other) and all(fits(*children) for children in matching_children(tree, other))


def describe(tree: State) -> str:
    """A tree in words, for error messages: the first entries of each container."""
    if isinstance(tree, Leaf):
        parts = [f"{tree.name} of shape {tree.shape_text}", tree.dtype, tree.domain]
        return ", ".join(str(part) for part in parts if part is not None)
    if isinstance(tree, (Mapping, tuple, list)):
        return _in_brackets(tree, [describe(child) for child in islice(children_of(tree), _MOST_DESCRIBED)])
    return "None"


def describe_state(state: State, depth: int = 0) -> str:
    """A received state in words, for error messages: the first entries of the first levels."""
    if isinstance(state, Tensor):
        return "a nested tensor" if state.is_nested else f"a tensor of shape {tuple(state.shape)}"
    if not isinstance(state, (Mapping, tuple, list)):
        return "None" if state is None else type(state).__name__
    if depth == 4:
        return "..."
    children = islice(children_of(state), _MOST_DESCRIBED)
    return _in_brackets(state, [describe_state(child, depth + 1) for child in children])


def _in_brackets(container: State, words: list[str]) -> str:
    """A container of which the first children are described."""
    if isinstance(container, Mapping):
        words = [f"{name}: {word}" for name, word in zip(container, words, strict=False)]
    text = ", ".join([*words, *(["..."] if len(container) > _MOST_DESCRIBED else [])])
    return f"{{{text}}}" if isinstance(container, Mapping) else f"({text})"

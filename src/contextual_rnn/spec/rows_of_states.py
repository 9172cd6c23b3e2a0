"""The rows of states of a batch, picked, mixed, joined and divided, whatever the layout of their leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import check_held, check_number, check_size, readable, shortened
from contextual_rnn._tensors import check_dense
from contextual_rnn.ops import LowRank
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.rows import check_open_part, combine, map_tensors, open_parts, split, take
from contextual_rnn.spec.tree import State, zip_leaves


class RowsOfStates:
    """Methods of `StateSpec` on the rows of states that its network takes or returns.

    All take states in the network's own layout and return new ones in it; gradients flow through. Where the spec has
    None, states may have None, a tensor with the batch first, or `LowRank`. Beside another form of fast weights
    `LowRank` becomes the matrix that it stands for.
    """

    tree: State

    def take(self, state: State, rows: Tensor) -> State:
        """The rows `rows` of a batch of states, (N,) integers in any order and repeated at will, or (B,) bools.

            beams = spec.take(state, parents)        # row n of the result is row parents[n]
            running = spec.take(state, ~done)

        Raises TypeError for rows of another kind and a state of another structure, ValueError for rows that are not
        there and a state of another shape or without a batch.
        """
        batch = self._batch_of("state", state)
        index = _checked_rows(rows, batch)
        self._check_meta("rows", index, state)
        return take(self.tree, index, state)

    def where(self, mask: Tensor, a: State, b: State) -> State:
        """The rows of `a` where `mask`, (B,) of bool, is True, those of `b` elsewhere.

            state = spec.where(done, initial_state(context), state)      # rows that are done begin anew

        A state of one example stands for every row. Raises TypeError for a mask that is not of bool and a state of
        another structure, ValueError for a mask of another size, for states of another shape, and where dtypes or
        devices differ.
        """
        check_dense("mask", mask)
        if mask.dtype != torch.bool:
            raise TypeError(f"mask: expected a tensor of bool, got {mask.dtype}")
        states, batch = self._pair(a, b)
        if mask.ndim != 1 or batch not in (None, len(mask)):
            rows = "batch" if batch is None else batch
            raise ValueError(f"mask: expected ({rows},), as the states, got {tuple(mask.shape)}")
        self._check_meta("mask", mask, a)

        def choose(tensors: Sequence[Tensor], dim: int) -> Tensor:
            flags = _along(mask.to(tensors[0].device), dim, tensors[0].ndim)
            return torch.where(flags, *tensors)

        states = [self._tiled(state, len(mask)) for state in states]
        return combine(self.tree, states, choose, [len(mask)] * 2)

    def lerp(self, a: State, b: State, weight: float | Tensor) -> State:
        """a + weight * (b - a), with one `weight` for all rows or one for each, (B,).

            path = spec.lerp(spec.take(state, zeros), spec.take(state, ones), torch.linspace(0, 1, steps))

        Low-rank fast weights become matrices, for those are interpolated. Leaves without floats are those of `a`. A
        state of one example stands for every row. Raises TypeError for a weight that is no number and a state of
        another structure, ValueError for a weight of another size or a number that is not finite, for states of another
        shape, and where dtypes or devices differ.
        """
        weight = _checked_weight(weight)
        states, batch = self._pair(a, b)
        if isinstance(weight, Tensor):
            self._check_meta("weight", weight, a)
        if isinstance(weight, Tensor) and weight.ndim:
            if batch not in (None, len(weight)):
                raise ValueError(f"weight: expected (), or ({batch},), as the states, got {tuple(weight.shape)}")
            batch = len(weight)

        def mix(tensors: Sequence[Tensor], dim: int) -> Tensor:
            first, second = tensors
            if not (first.is_floating_point() or first.is_complex()):
                return first.clone()
            if not isinstance(weight, Tensor):
                check_held("weight", weight, first.dtype)
                return torch.lerp(first, second, weight)
            share = weight.to(first.device, first.dtype)
            return torch.lerp(first, second, _along(share, dim, first.ndim) if share.ndim else share)

        states = [self._tiled(state, 1 if batch is None else batch) for state in states]
        mixed = combine(self.tree, states, mix, [1 if batch is None else batch] * 2, factors=False)
        return self.unbind(mixed)[0] if batch is None else mixed

    def cat(self, states: Sequence[State]) -> State:
        """Batches of states one after the other, as one batch.

        Raises TypeError for a state of another structure, ValueError without states, for one of another shape or
        without a batch, and where dtypes or devices differ.
        """
        states, sizes = self._several(states)
        batches = [size for size in sizes if size is not None]
        if len(batches) < len(sizes):
            raise ValueError("states: expected batches of states, got the state of one example (join those with stack)")
        return combine(self.tree, states, lambda tensors, dim: torch.cat(list(tensors), dim), batches)

    def stack(self, states: Sequence[State]) -> State:
        """States of one example each as a batch.

        Raises TypeError for a state of another structure, ValueError without states, for one of another shape or with
        a batch, and where dtypes or devices differ.
        """
        states, batches = self._several(states)
        if any(batch is not None for batch in batches):
            raise ValueError("states: expected states of one example, got one with a batch (join those with cat)")
        states = [self._tiled(state, 1) for state in states]
        return combine(self.tree, states, lambda tensors, dim: torch.cat(list(tensors), dim), [1] * len(states))

    def split(self, state: State, sizes: int | Sequence[int]) -> list[State]:
        """A batch of states as batches of `sizes` rows: of one size, the last perhaps smaller, or of those listed.

        Raises TypeError for a state of another structure and sizes that are no integers, ValueError for sizes that do
        not sum to the batch size and a state of another shape or without a batch.
        """
        batch = self._batch_of("state", state)
        return [_own(part) for part in split(self.tree, state, _sizes(sizes, batch))]

    def unbind(self, state: State) -> list[State]:
        """The states of the rows of a batch, each of one example. Raises as `split`."""
        rows = split(self.tree, state, [1] * self._batch_of("state", state))
        return [_own(combine(self.tree, [row], lambda t, dim: t[0].squeeze(dim), [1])) for row in rows]

    def _rows_in(self, name: str, state: State) -> int | None:
        """The batch size of a state, None for one example; refuse what is no state of the network."""
        leaf = next(iter(self._opened))
        batch = rows_of(leaf, self._opened.check(state, name)[leaf.name])
        for part in open_parts(self._opened.tree, state):
            if part is not None:
                check_open_part(name, part, batch)
        return batch

    def _batch_of(self, name: str, state: State) -> int:
        batch = self._rows_in(name, state)
        if batch is None:
            raise ValueError(f"{name}: expected a batch of states, got the state of one example")
        return batch

    def _pair(self, a: State, b: State) -> tuple[list[State], int | None]:
        """Two states of one batch size, None where both are of one example."""
        sizes = {name: self._rows_in(name, state) for name, state in (("a", a), ("b", b))}
        if None not in sizes.values() and sizes["a"] != sizes["b"]:
            raise ValueError(f"b: expected batch size {sizes['a']}, as a, got {sizes['b']}")
        self._check_alike("b", [a, b], list(sizes.values()))
        batch = sizes["b"] if sizes["a"] is None else sizes["a"]
        return [a, b] if batch is None else [self._tiled(state, batch) for state in (a, b)], batch

    def _several(self, states: Sequence[State]) -> tuple[list[State], list[int | None]]:
        if not isinstance(states, (list, tuple)):
            raise TypeError(f"states: expected a list of states, got {type(states).__name__}")
        if not states:
            raise ValueError("states: expected at least one, got none")
        batches = [self._rows_in("states", state) for state in states]
        self._check_alike("states", states, batches)
        return list(states), batches

    def _check_alike(self, name: str, states: Sequence[State], batches: Sequence[int | None]) -> None:
        """Refuse states of which a leaf has another dtype or device, or a matrix beside them another shape too."""
        first, *others = (zip_leaves(self._opened.tree, state, name) for state in states)
        for (leaf, expected), (_, tensor) in (pair for other in others for pair in zip(first, other, strict=True)):
            if (tensor.dtype, tensor.device) != (expected.dtype, expected.device):
                raise ValueError(
                    f"{name}: expected leaf {leaf.name!r} of {expected.dtype} on {expected.device}, as the other's, "
                    f"got {tensor.dtype} on {tensor.device}"
                )
        for parts in zip(*(open_parts(self._opened.tree, state) for state in states), strict=True):
            rows = [_row_of(part, batch) for part, batch in zip(parts, batches, strict=True) if part is not None]
            for row in rows[1:]:
                if row != rows[0]:
                    raise ValueError(f"{name}: expected {rows[0]} where the spec has None, as the other's, got {row}")

    def _check_meta(self, name: str, values: Tensor, state: State) -> None:
        """Refuse values that cannot be read beside a state that has some."""
        if values.is_meta and not all(leaf.is_meta for _, leaf in zip_leaves(self._opened.tree, state, name)):
            raise ValueError(f"{name}: expected a tensor whose values can be read, got one on meta")

    def _tiled(self, state: State, batch: int) -> State:
        """A state of one example for every row, without copies; a batch as it is."""
        leaf, tensor = zip_leaves(self._opened.tree, state, "state")[0]
        if rows_of(leaf, tensor) is not None:
            return state

        def tile(tensors: Sequence[Tensor], dim: int) -> Tensor:
            shape = list(tensors[0].shape)
            return tensors[0].unsqueeze(dim).expand(*shape[:dim], batch, *shape[dim:])

        return combine(self.tree, [state], tile, [1])

    @property
    def _opened(self) -> Any:
        """This spec with None for fast weights of low rank: a network returns them in another form."""
        return self._without_low_rank or self

    @cached_property
    def _without_low_rank(self) -> Any | None:
        tree = _without_low_rank(self.tree)
        return None if tree == self.tree else replace(self, tree=tree)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _without_low_rank(tree: State) -> State:
    if isinstance(tree, Mapping):
        return {name: _without_low_rank(child) for name, child in tree.items()}
    if isinstance(tree, (tuple, list)) and not isinstance(tree, LowRank):
        children = [_without_low_rank(child) for child in tree]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    return None if isinstance(tree, LowRank) else tree


def _row_of(part: State, batch: int | None) -> str:
    """Dtype, shape and device of one row where the spec has None, of low rank those of its matrix."""
    tensor = part.left if isinstance(part, LowRank) else part
    shape = tuple(tensor.shape[0 if batch is None else 1 :])
    return f"{tensor.dtype} of shape {shape[-1:] * 2 if isinstance(part, LowRank) else shape} on {tensor.device}"


def _along(values: Tensor, dim: int, ndim: int) -> Tensor:
    """Values of rows, (B,), so that they broadcast against a leaf of `ndim` axes with the batch at `dim`."""
    return values.reshape(*[1] * dim, len(values), *[1] * (ndim - dim - 1))


def _checked_rows(rows: Tensor, batch: int) -> Tensor:
    check_dense("rows", rows)
    if rows.dtype == torch.bool:
        if rows.shape != (batch,):
            raise ValueError(f"rows: expected ({batch},) of bool, as the state, got {tuple(rows.shape)}")
        return rows.nonzero()[:, 0]
    if rows.dtype.is_floating_point or rows.dtype.is_complex:
        raise TypeError(f"rows: expected a tensor of integers or bool, got {rows.dtype}")
    if rows.ndim != 1:
        raise ValueError(f"rows: expected one axis, got {tuple(rows.shape)}")
    rows = rows.long()  # torch has no comparisons of some integers without a sign
    if readable(rows) and rows.numel() and not (int(rows.min()) >= 0 and int(rows.max()) < batch):
        raise ValueError(f"rows: expected 0 to {batch - 1}, got {int(rows.min())} to {int(rows.max())}")
    return rows


def _checked_weight(weight: float | Tensor) -> float | Tensor:
    if not isinstance(weight, Tensor):
        return check_number("weight", weight)
    check_dense("weight", weight)
    if not weight.is_floating_point():
        raise TypeError(f"weight: expected a number or a tensor of floats, got {weight.dtype}")
    if weight.ndim > 1:
        raise ValueError(f"weight: expected a number, () or (batch,), got {tuple(weight.shape)}")
    return weight


def _own(state: State) -> State:
    """A state in memory of its own: one that is kept does not keep the batch that it was part of."""
    return map_tensors(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), state)


def _sizes(sizes: int | Sequence[int], batch: int) -> list[int]:
    """The size of each part of a batch."""
    if not isinstance(sizes, (list, tuple)):
        size = check_size("sizes", sizes)
        return [min(size, batch - first) for first in range(0, batch, size)]
    parts = [check_size("sizes", size, 0) for size in sizes]
    if sum(parts) != batch:
        raise ValueError(f"sizes: expected sizes that sum to {batch}, as the batch, got {shortened(sizes)}")
    return parts

"""What state does a network carry? One description, read by every initial state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from contextual_rnn._numbers import check_device, check_dtype, check_flag, listed, readable
from contextual_rnn._tensors import check_dense, comparable
from contextual_rnn.spec.arguments import Call, check_call
from contextual_rnn.spec.axes import TimeDim, checked_axes
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.rows_of_states import RowsOfStates
from contextual_rnn.spec.tree import (
    State,
    check_leaves,
    describe,
    leaves_of,
    map_leaves,
    pack,
    zip_leaves,
)
from contextual_rnn.spec.values import ValuesOfLeaves, is_float

Step = Callable[..., tuple[Tensor, State]]


@dataclass(frozen=True)
class StateSpec(RowsOfStates, ValuesOfLeaves):
    """The state of a network: its leaves and how they are put together.

    `tree` is the state with a `Leaf` where the network takes a tensor: a leaf, or leaves and None in (named) tuples,
    lists and dicts. `input_batch_dim` is the batch axis of the network's input and `input_ndim` the number of axes of a
    batched input (None where only batched input exists). `dtype` and `device` say how parameters of an initial state
    are made.

    `time_dim` is the time axis of a batched input where the network takes sequences, None where a call is one step.
    "unknown" means None where `input_ndim` is 2, else 1 - input_batch_dim where there is a `step`; otherwise
    `ContextualRNN` and `generate` find out, with one step and a sequence of one step, when they first need to know.
    `bidirectional` says that the network also runs backwards in time.

    `step` runs the network for one step, (network, inputs (B, ...), state) -> (output (B, ...), state). None means one
    call of the network, with a time axis of size 1 where it takes sequences.

    `call` runs the network where it does not take (input, state) and return (output, state):
    (network, input, state, **arguments) -> (output, state). "steps" runs `step` over time, for a network that only has
    a step. Of the further arguments of a model, `per_step` names those with the batch and time axes of the input, and
    `per_row` those with the batch first; they are cut with the input, and `step` gets them as (B, ...).

    Raises TypeError for a tree without leaves or with other things in it and for arguments of other types, ValueError
    for a tree of more than 100 levels, two leaves of one name, and axes that are not there or the same.
    """

    tree: State
    input_batch_dim: int = 0
    input_ndim: int | None = None
    step: Step | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    time_dim: TimeDim = "unknown"
    bidirectional: bool = False
    call: Call | Literal["steps"] | None = None
    per_step: tuple[str, ...] = ()
    per_row: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [leaf.name for leaf in self]
        if not names:
            raise TypeError("tree: expected at least one Leaf, got none")
        if len(self._by_name) < len(names):
            raise ValueError(f"tree: expected leaves of different names, got {listed(names)}")
        for name, axis in checked_axes(self.input_batch_dim, self.input_ndim, self.time_dim).items():
            object.__setattr__(self, name, axis)
        if self.step is not None and not callable(self.step):
            raise TypeError(f"step: expected a function or None, got {type(self.step).__name__}")
        check_flag("bidirectional", self.bidirectional)
        check_call(self.call, self.step, self.known_time_dim, self.per_step, self.per_row)
        if self.bidirectional and self.known_time_dim is None:
            raise ValueError("bidirectional: expected False for a network that takes one step, got True")
        object.__setattr__(self, "device", check_device(self.device))
        check_dtype(self.dtype)
        for name in ("floats", "constants", "bounded", "_without_low_rank"):
            getattr(self, name)  # torch.compile cannot evaluate a cached property

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self._leaves)

    @cached_property
    def _leaves(self) -> tuple[Leaf, ...]:
        return tuple(leaves_of(self.tree))  # every call of a state goes through them

    @cached_property
    def _by_name(self) -> dict[str, Leaf]:
        return {leaf.name: leaf for leaf in self}

    def __getitem__(self, name: str) -> StateSpec:
        """The spec of one leaf alone, for a state of its own in `LeafwiseState`; KeyError lists the names."""
        if isinstance(name, str) and name in self._by_name:
            return replace(self, tree=self._by_name[name])
        raise KeyError(f"leaf: expected one of {listed(self._by_name)}, got {name!r}")

    def like(self, tensor: Tensor) -> StateSpec:
        """This spec with the dtype and device of `tensor`; TypeError for anything but a tensor."""
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensor: expected a tensor, got {type(tensor).__name__}")
        return replace(self, dtype=tensor.dtype, device=tensor.device)

    def shared(self) -> StateSpec:
        """This spec with one state for all layers and directions, which the network gets repeated."""

        def share(leaf: Leaf) -> Leaf:
            layered = leaf.batch_dim == 1 and leaf.repeat == 1
            return replace(leaf, shape=(1, *leaf.shape[1:]), repeat=leaf.shape[0]) if layered else leaf

        return replace(self, tree=map_leaves(share, self.tree))

    def pack(self, leaves: Mapping[str, Tensor]) -> State:
        """Put leaves, each (B, *shape) or all `shape`, together as the network takes them.

        Raises TypeError for anything but a dict of tensors, ValueError for a leaf that is missing, one that is not
        dense, and one of another shape or batch size.
        """
        check_leaves(tuple(self), leaves)
        return pack(self.tree, leaves)

    def check(self, state: State, name: str = "state") -> dict[str, Tensor]:
        """The leaves of `state` with the batch first, or without a batch, all layers of a shared leaf among them.

        Raises TypeError for another structure, ValueError for a leaf that is not dense or of another shape or batch
        size; `name` is the argument that they name.
        """
        leaves: dict[str, Tensor] = {}
        seen: tuple[str, int | None] | None = None
        for leaf, tensor in zip_leaves(self.tree, state, name):
            check_dense(name, tensor)
            batched = tensor.ndim > len(leaf.shape)
            expected = list(leaf.network_shape)
            if batched:
                expected.insert(leaf.batch_dim, tensor.shape[min(leaf.batch_dim, tensor.ndim - 1)])
            if list(tensor.shape) != expected:
                raise ValueError(
                    f"{name}: expected leaf {leaf.name!r} of shape {leaf.shape_text}, got {tuple(tensor.shape)}"
                )
            batch = tensor.shape[leaf.batch_dim] if batched else None
            if seen is not None and seen[1] != batch:
                raise ValueError(
                    f"{name}: expected leaves of one batch size, got {seen[1]} for {seen[0]!r}, "
                    f"{batch} for {leaf.name!r}"
                )
            seen = (leaf.name, batch)
            leaves[leaf.name] = tensor.movedim(leaf.batch_dim, 0) if batched else tensor
        return leaves

    def unpack(self, state: State, name: str = "state") -> dict[str, Tensor]:
        """The leaves of `state`, each (B, *shape), or `shape` where the state is of one unbatched example.

        Where the spec has None anything may stand. Raises as `check`, and ValueError for a shared leaf whose layers
        differ; gradients flow to its first layer. torch.compile, vmap and captured graphs cannot look at the layers.
        """
        leaves = self.check(state, name)
        for leaf in self:
            if leaf.repeat == 1:
                continue
            tensor = leaves[leaf.name]
            axis = tensor.ndim - len(leaf.shape)
            leaves[leaf.name] = first = tensor.narrow(axis, 0, 1)
            if readable(tensor) and not _same(tensor.detach(), first.detach()):
                raise ValueError(
                    f"{name}: expected leaf {leaf.name!r} with the same values in all {leaf.repeat} layers, as the "
                    "spec shares one state, got layers that differ"
                )
        return leaves

    def input_batch_size(self, inputs: Tensor) -> int | None:
        """Batch size of an input of the network, None for one unbatched example.

        Raises TypeError for an input that is no tensor, ValueError for one that is not dense or of more or fewer axes.
        """
        if not isinstance(inputs, Tensor) or inputs.layout is not torch.strided or inputs.is_nested:
            check_dense("input", inputs)
        # Every step of a loop pays for this: the words are for errors alone.
        axes, batch = self.input_ndim, self.input_batch_dim
        if inputs.ndim == axes or (axes is None and inputs.ndim > batch):
            return inputs.shape[batch]
        if axes is not None and inputs.ndim == axes - 1:
            return None
        expected = f"at least {batch + 1} axes" if axes is None else f"{axes} axes, or {axes - 1} without a batch"
        raise ValueError(f"input: expected {expected}, got {inputs.ndim}: {tuple(inputs.shape)}")

    @cached_property
    def known_time_dim(self) -> TimeDim:
        """`time_dim`, or what `input_ndim` and `step` say of it."""
        if self.time_dim != "unknown" or (self.step is None and self.input_ndim != 2):
            return self.time_dim
        if self.input_ndim == 2:
            return None
        return 1 - self.input_batch_dim if self.input_batch_dim < 2 else "unknown"

    def describe(self) -> str:
        """The state in words, for error messages."""
        return describe(self.tree)


def _same(layers: Tensor, first: Tensor) -> bool:
    """Whether all layers are the first, NaN included, but for rounding: kernels round vectors and remainders apart."""
    rounding = 8 * torch.finfo(layers.dtype).eps if is_float(layers.dtype) else 0.0
    layers, first = comparable(layers), comparable(first)
    same = torch.isclose(layers, first, rtol=rounding, atol=0.0, equal_nan=is_float(layers.dtype))
    return bool(same.all())

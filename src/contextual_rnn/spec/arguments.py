"""How a network with a signature of its own is called, and which further arguments are cut with its input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from contextual_rnn._numbers import shortened
from contextual_rnn._tensors import check_dense
from contextual_rnn._torch_internals import not_compiled

Call = Callable[..., tuple[Any, Any]]


def check_call(call: object, step: object, time_dim: object, per_step: object, per_row: object) -> None:
    """Refuse a way to call a network that is no function or lacks a step, and names that are no tuple of names."""
    if call == "steps":
        if step is None or not isinstance(time_dim, int):
            missing = "step" if step is None else "time_dim"
            raise ValueError(f'{missing}: expected one beside call="steps", got {None if step is None else time_dim}')
    elif not (call is None or callable(call)):
        raise TypeError(f'call: expected a function, "steps" or None, got {shortened(call)}')
    names: list[str] = []
    for argument, value in (("per_step", per_step), ("per_row", per_row)):
        if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
            raise TypeError(f"{argument}: expected a tuple of names, got {shortened(value)}")
        names += value
    if len(set(names)) < len(names):
        raise ValueError(f"per_step, per_row: expected each name once, got {', '.join(names)}")


def flat_places(places: Sequence[tuple[Tensor, Tensor]], length: int) -> Tensor:
    """Where the steps of `Inputs.blocks` are in a batch of rows of `length` steps with its first two axes as one."""
    return torch.cat([(rows[:, None] * length + steps).flatten() for rows, steps in places])


@dataclass(frozen=True)
class Inputs:
    """The input of a network, and the arguments that are cut with it: some for every step, some for every row."""

    tensor: Tensor
    batch_dim: int
    time_dim: int
    per_step: Mapping[str, Tensor] = field(default_factory=dict)
    per_row: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tensor: Tensor, batch_dim: int, time_dim: int, arguments: Mapping[str, Tensor], names: tuple[str, ...]
    ) -> Inputs:
        """An input with its arguments, of which `names` are for every step and the others for every row."""
        per_step = {name: value for name, value in arguments.items() if name in names}
        per_row = {name: value for name, value in arguments.items() if name not in names}
        return cls(tensor, batch_dim, time_dim, per_step, per_row)

    @property
    def arguments(self) -> dict[str, Tensor]:
        return {**self.per_step, **self.per_row}

    def _map(self, of_steps: Callable[[Tensor], Tensor], of_rows: Callable[[Tensor], Tensor] | None = None) -> Inputs:
        per_row = self.per_row if of_rows is None else {name: of_rows(value) for name, value in self.per_row.items()}
        per_step = {name: of_steps(value) for name, value in self.per_step.items()}
        return replace(self, tensor=of_steps(self.tensor), per_step=per_step, per_row=per_row)

    def steps(self, first: int, count: int) -> Inputs:
        """`count` steps from `first`."""
        return self._map(lambda tensor: tensor.narrow(self.time_dim, first, count))

    def rows(self, index: Tensor) -> Inputs:
        """Some rows of the batch."""
        return self._map(
            lambda tensor: tensor.index_select(self.batch_dim, index.to(tensor.device)),
            lambda tensor: tensor.index_select(0, index.to(tensor.device)),
        )

    def double(self) -> Inputs:
        """Floats in float64, everything else as it is."""

        def doubled(tensor: Tensor) -> Tensor:
            return tensor.double() if tensor.is_floating_point() else tensor

        return self._map(doubled, doubled)

    def split(self, sizes: list[int]) -> list[Inputs]:
        """Pieces of so many steps, one after the other; a backward pass through all takes the time of one pass."""
        parts = [_cut(tensor, sizes, self.time_dim) for tensor in (self.tensor, *self.per_step.values())]
        return [
            replace(self, tensor=tensor, per_step=dict(zip(self.per_step, more, strict=True)))
            for tensor, *more in zip(*parts, strict=True)
        ]

    def blocks(self, places: Sequence[tuple[Tensor, Tensor]]) -> list[Inputs]:
        """Batches of pieces: of row `rows` (N,) the steps `steps` (N, T), for each (rows, steps) of `places`.

        One node of autograd for all, whose time is that of one pass.
        """
        axes, length = (self.batch_dim, self.time_dim), self.tensor.shape[self.time_dim]
        every = flat_places(places, length)
        rows = torch.cat([rows for rows, _ in places])

        def pick(tensor: Tensor) -> list[Tensor]:
            picked = tensor.movedim(axes, (0, 1)).flatten(0, 1).index_select(0, every.to(tensor.device))
            parts = picked.split([steps.numel() for _, steps in places])
            return [
                part.unflatten(0, steps.shape).movedim((0, 1), axes)
                for part, (_, steps) in zip(parts, places, strict=True)
            ]

        def pick_rows(tensor: Tensor) -> Sequence[Tensor]:
            return tensor.index_select(0, rows.to(tensor.device)).split([len(rows) for rows, _ in places])

        per_step = {name: pick(value) for name, value in self.per_step.items()}
        per_row = {name: pick_rows(value) for name, value in self.per_row.items()}
        return [
            replace(
                self,
                tensor=tensor,
                per_step={name: parts[number] for name, parts in per_step.items()},
                per_row={name: parts[number] for name, parts in per_row.items()},
            )
            for number, tensor in enumerate(pick(self.tensor))
        ]

    def one_step_of_zeros(self) -> Inputs:
        def zeros(tensor: Tensor) -> Tensor:
            shape = list(tensor.shape)
            shape[self.time_dim] = 1
            return tensor.new_zeros(shape)

        return self._map(zeros)

    def step(self, number: int) -> Inputs:
        """One step, everything of it (B, ...)."""
        place = self.batch_dim - 1 if self.time_dim < self.batch_dim else self.batch_dim
        return self._map(lambda tensor: tensor.select(self.time_dim, number).movedim(place, 0))


@not_compiled
def _cut(tensor: Tensor, sizes: list[int], dim: int) -> list[Tensor]:
    """tensor.split(sizes, dim), by way of groups of pieces.

    A backward pass through one piece makes zeros for the others of its group and for the other groups, not for all.
    """
    number = math.isqrt(len(sizes)) or 1
    groups = [sizes[start : start + number] for start in range(0, len(sizes), number)]
    parts = tensor.split([sum(group) for group in groups], dim) if groups else ()
    return [piece for part, group in zip(parts, groups, strict=True) for piece in part.split(group, dim)]


def split_arguments(
    arguments: Mapping[str, Any], per_step: tuple[str, ...], per_row: tuple[str, ...], inputs: Inputs, beside: str
) -> Inputs:
    """`inputs` with the arguments that are cut with them; refuse others and those of another size."""
    tensor = inputs.tensor
    sizes = {axis: tensor.shape[axis] for axis in (inputs.batch_dim, inputs.time_dim)}
    for name, value in arguments.items():
        if name not in (*per_step, *per_row):
            raise ValueError(
                f"{name}: expected no argument beside {beside} that the spec does not say how to cut, with per_step or "
                f"per_row, got {name}"
            )
        check_dense(name, value)
        _check_sizes(name, value, sizes if name in per_step else {0: tensor.shape[inputs.batch_dim]})
    return Inputs.of(tensor, inputs.batch_dim, inputs.time_dim, arguments, per_step)


def check_uncut(arguments: Mapping[str, Any], spec: Any, tensor: Tensor) -> None:
    """Refuse tensors of another size than the input's where nothing is cut; numbers and the like may stand there."""
    batch, time = spec.input_batch_dim, spec.known_time_dim
    axes = (batch, time) if isinstance(time, int) else (batch,)
    for names, sizes in (
        (spec.per_step, {axis: tensor.shape[axis] for axis in axes}),
        (spec.per_row, {0: tensor.shape[batch]}),
    ):
        for name in names:
            if isinstance(value := arguments.get(name), Tensor) and value.ndim:
                _check_sizes(name, value, sizes)


def _check_sizes(name: str, value: Tensor, sizes: Mapping[int, int]) -> None:
    if value.ndim <= max(sizes) or any(value.shape[axis] != size for axis, size in sizes.items()):
        words = " and ".join(f"{size} in axis {axis}" for axis, size in sorted(sizes.items()))
        raise ValueError(f"{name}: expected {words}, as the input, got {tuple(value.shape)}")


def repeated_arguments(spec: Any, arguments: Mapping[str, Any], copies: int) -> dict[str, Any] | None:
    """Arguments of a batch whose rows are repeated, each `copies` times: those of a row or a step are, too."""
    axes = {**dict.fromkeys(spec.per_step, spec.input_batch_dim), **dict.fromkeys(spec.per_row, 0)}
    repeated = dict(arguments)
    for name in axes.keys() & arguments.keys():
        check_dense(name, arguments[name])
        if arguments[name].ndim <= axes[name]:
            raise ValueError(f"{name}: expected a batch in axis {axes[name]}, got {tuple(arguments[name].shape)}")
        repeated[name] = arguments[name].repeat_interleave(copies, axes[name])
    return repeated or None


def one_step_of(input: Tensor, batch_dim: int) -> Tensor:
    """An example of one step of the batch, (B, ...)."""
    shape = [size for axis, size in enumerate(input.shape) if axis not in (batch_dim, 1 - batch_dim)]
    return input.new_empty(input.shape[batch_dim], *shape)


def is_arguments(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def merged(arguments: Mapping[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    """The arguments for the network alone."""
    if arguments is None:
        return more
    if not is_arguments(arguments):
        received = f"{type(arguments).__name__}" if not isinstance(arguments, Mapping) else f"names {list(arguments)}"
        raise TypeError(f"arguments: expected a dict from names to values, got {received}")
    if both := sorted(set(arguments) & set(more)):
        raise ValueError(f"arguments: expected each argument once, got {', '.join(both)} as a keyword too")
    return {**arguments, **more}

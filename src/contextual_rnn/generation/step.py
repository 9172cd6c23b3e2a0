"""One step of a generation: what a user's functions receive, and how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import check_size
from contextual_rnn._tensors import random


class GenerationStep(NamedTuple):
    """Which step of a generation it is, and for which rows: the last argument of a user's function that asks for it.

    `number` counts the generated values from 0; in a prompt it is negative, -1 at the value before the last of the
    longest prompt. `rows` (N,) are the rows that go on, b * num_samples + s for sample s of condition b, and
    `conditions` (N,) their b: `labels[at.conditions]` are the labels of these rows. `num_rows` counts all rows,
    those that have stopped too. `rand` and `randn` draw from `generator`, for all rows at every step, so that one
    row's stop does not change another row's numbers.

    `rand` and `randn` raise ValueError or TypeError for sizes that are no ints of at least 0.
    """

    number: int
    rows: Tensor
    conditions: Tensor
    num_rows: int
    generator: torch.Generator | None = None

    def rand(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform numbers from 0 to below 1 for the rows that go on, (N, *size)."""
        return self._drawn(torch.rand, size, dtype)

    def randn(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers for the rows that go on, (N, *size)."""
        return self._drawn(torch.randn, size, dtype)

    def _drawn(self, draw: Callable[..., Tensor], size: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
        size = tuple(check_size("size", axis, 0) for axis in size)
        device = self.rows.device if self.generator is None else self.generator.device
        numbers = random(draw, (self.num_rows, *size), self.generator, dtype=dtype, device=device)
        numbers = numbers.to(self.rows.device)
        return numbers if self.rows.shape[0] == self.num_rows else numbers.index_select(0, self.rows)


def with_step(name: str, function: Callable[..., Any], arguments: int) -> Callable[..., Any]:
    """`function` as one that takes a GenerationStep after `arguments` arguments, and ignores it unless it asks for it.

    It asks by one more argument that has no default. Raises TypeError, with `name`, for a function of other arguments.
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    asks = False
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # some functions written in C have no signature
        pass
    else:
        required = [p for p in signature.parameters.values() if p.kind in positional and p.default is p.empty]
        asks = len(required) > arguments
        try:
            signature.bind(*[None] * (arguments + asks))
        except TypeError as error:
            values = "1 argument" if arguments == 1 else f"{arguments} arguments"
            expected = f"a function of {values}, or of one more, the GenerationStep"
            raise TypeError(f"{name}: expected {expected}, got one with signature {signature}: {error}") from None
    if asks:
        return function
    if arguments == 1:
        return lambda value, at: function(value)
    return lambda output, value, at: function(output, value)

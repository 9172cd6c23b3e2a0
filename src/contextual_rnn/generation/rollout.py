"""Many trajectories, rolled out side by side; those that have stopped are left out."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contextual_rnn.generation.functions import Functions
from contextual_rnn.generation.step import GenerationStep
from contextual_rnn.spec.rows import put_together, take
from contextual_rnn.spec.tree import State


class Generated(NamedTuple):
    """What `generate` returns, for B conditions, S samples of each, and T steps.

    values (B, S, T, *value); behind a row's last value that value is repeated. lengths (B, S), int64: the number of
    values, that at which a row has stopped included. log_probs (B, S, T): of each value, 0 behind the last; None where
    no function gives any. outputs (B, S, T, H): of the network, 0 behind the last; None unless asked for. state: the
    network's, of B * S rows, after the last step that was run for a row; the last value has not been fed to it, so
    that `generate(..., prompt=values[:, :, -1:].flatten(0, 1), hx=state)` goes on.
    """

    values: Tensor
    lengths: Tensor
    log_probs: Tensor | None
    outputs: Tensor | None
    state: State


def stack_steps(steps: list[Tensor], num_steps: int, shape: tuple[int, int], *, repeat_last: bool = False) -> Any:
    """Steps of all rows, (B * S, ...), as (B, S, T, ...); None without any. More steps are the last one, or zeros."""
    if not steps:
        return None
    for part in steps:
        _check_shape(part, steps[0])
    last = steps[-1] if repeat_last else torch.zeros_like(steps[-1])
    return torch.stack([*steps, *[last] * (num_steps - len(steps))], 1).unflatten(0, shape)


def _check_shape(part: Tensor, before: Tensor) -> None:
    if part.shape[1:] != before.shape[1:]:
        expected, received = tuple(before.shape[1:]), tuple(part.shape[1:])
        raise ValueError(f"step: expected values of shape {expected}, as before, got {received}")


def _add(steps: list[Tensor], rows: Tensor, part: Tensor, num_rows: int, *, repeat_last: bool = False) -> None:
    """Append the part of `rows`; the other rows have the last step again, or zeros."""
    if rows.shape[0] < num_rows:  # len of a tensor is slow
        others = steps[-1] if repeat_last else part.new_zeros(num_rows, *part.shape[1:])
        _check_shape(part, others)
        dtype = torch.promote_types(others.dtype, part.dtype)  # as torch.stack does in the end
        part = others.to(dtype).index_copy(0, rows.to(part.device), part.to(dtype))
    steps.append(part)


def roll_out(
    functions: Functions,
    states: Sequence[State],
    value: Tensor | None,
    conditions: Tensor,
    shape: tuple[int, int],
    num_steps: int,
    generator: torch.Generator | None,
    keep_outputs: bool,
) -> Generated:
    """Feed back what is generated, for B, S = `shape`; `conditions` (B * S,) is the b of each row."""
    num_rows, tree = len(conditions), functions.model._spec.tree
    rows = torch.arange(num_rows, device=conditions.device)
    values: list[Tensor] = []
    log_probs: list[Tensor] = []
    outputs: list[Tensor] = []
    lengths = torch.full((num_rows,), num_steps, device=conditions.device)
    finished: list[tuple[Tensor, State]] = []  # rows that have stopped, and their states
    for number in range(num_steps):
        at = GenerationStep(number, rows, conditions, num_rows, generator)
        output, states = functions.advance(value, states, at)
        value, log_prob = functions.next(output, value, at)
        _add(values, rows, value, num_rows, repeat_last=True)
        if number and (log_prob is None) == bool(log_probs):
            received = f"none in step {number}" if log_prob is None else f"the first in step {number}"
            raise ValueError(f"step: expected log-probabilities in every step or in none, got {received}")
        if log_prob is not None:
            _add(log_probs, rows, log_prob, num_rows)
        if keep_outputs:
            _add(outputs, rows, output[0], num_rows)
        if not functions.can_stop:
            continue
        stopped = functions.stopped(value, at)
        ended = stopped.nonzero()[:, 0]
        if not len(ended):
            continue
        lengths[rows[ended]] = number + 1
        finished.append((rows[ended], take(tree, ended, states[0])))
        going = (~stopped).nonzero()[:, 0]
        rows, conditions, value = rows[going], conditions[going], value[going.to(value.device)]
        states = [take(tree, going, state) for state in states]
        if not len(rows):
            break
    state = states[0]
    if finished:
        state = put_together(tree, [*finished, (rows, state)] if len(rows) else finished)
    return Generated(
        values=stack_steps(values, num_steps, shape, repeat_last=True),
        lengths=lengths.unflatten(0, shape),
        log_probs=stack_steps(log_probs, num_steps, shape),
        outputs=stack_steps(outputs, num_steps, shape),
        state=state,
    )

"""Where trajectories start: the states of all rows, and the prompts that are run before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._sharded import as_forward
from contextual_rnn.generation.functions import Functions
from contextual_rnn.generation.step import GenerationStep
from contextual_rnn.rnn import ContextualRNN, check_made
from contextual_rnn.sequences.batch import Sequences
from contextual_rnn.spec.rows import take, write_rows
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.steps import check_step, step_of
from contextual_rnn.spec.tree import State
from contextual_rnn.states import InitialState


def initial_rows(
    model: ContextualRNN,
    initial_state: InitialState,
    context: Any,
    batch: int | None,
    copies: int,
    sample: bool,
    generator: torch.Generator | None,
) -> State:
    """`copies` states a condition as one batch, drawn or the mean; a single example is a batch of one."""

    def make(context: Any) -> State:
        state = draw_or_mean(context)
        check_made(model.network, initial_state, state)  # here, where both are of the dtype that FSDP computes with
        return state

    def draw_or_mean(context: Any) -> State:
        if sample:
            return initial_state.sample(context, copies, batch_size=batch, generator=generator)
        spec = initial_state.spec
        leaves = spec.unpack(initial_state(context, batch))
        first = next(iter(spec))
        if leaves[first.name].ndim == len(first.shape):
            leaves = {name: leaf[None] for name, leaf in leaves.items()}
        return spec.pack({name: leaf.repeat_interleave(copies, 0) for name, leaf in leaves.items()})

    return as_forward(model, make)(context)


def num_rows_of(spec: StateSpec, state: State) -> int:
    """The batch size of a state."""
    return next(iter(spec.check(state).values())).shape[0]


def run_prompt(
    functions: Functions,
    state: State,
    prompt: Tensor,
    lengths: Tensor | None,
    conditions: Tensor,
    generator: torch.Generator | None,
) -> State:
    """The state after all but the last value of each prompt; all arguments have the rows of `state`."""
    model, num_rows, steps = functions.model, prompt.shape[0], prompt.shape[1] - 1
    if not steps:
        return state
    rows = torch.arange(num_rows, device=conditions.device)
    at = [GenerationStep(t - steps, rows, conditions, num_rows, generator) for t in range(steps)]
    inputs, arguments = zip(*[functions.inputs(prompt[:, t], at[t]) for t in range(steps)], strict=True)
    names = sorted(arguments[0])
    if others := [sorted(more) for more in arguments if sorted(more) != names]:
        raise ValueError(f"embed: expected the same arguments at every step, {names}, got {others[0]}")
    functions.know_spec(inputs[0])
    spec = functions.spec
    check_step("embed" if functions.embeds else "prompt", model.network, spec, inputs[0])
    # The arguments of a whole run are one for each row; those that change are given step by step.
    of_rows = [name for name in spec.per_row if name in arguments[0]]
    changes = any(not torch.equal(given[name], arguments[0][name]) for given in arguments for name in of_rows)
    if isinstance(spec.known_time_dim, int) and not changes:
        layout = (spec.input_batch_dim, spec.known_time_dim)

        def over_time(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack([*parts], 1).movedim((0, 1), layout)

        cut = {
            name: over_time([more[name] for more in arguments]) if name in spec.per_step else first
            for name, first in arguments[0].items()
        }
        before = None if lengths is None else lengths - 1
        given: Any = {"lengths": before, "mask": None, "reset": None, "reset_context": None, "arguments": cut}

        def run(padded: Tensor, state: State) -> Any:
            return Sequences.of(model, padded, None, None, **given, pieces="prompt").run(state, carry=True)

        return as_forward(model, run)(over_time(inputs), state)[1]
    for t in range(steps):
        going = rows if lengths is None else (lengths.to(rows.device) > t + 1).nonzero()[:, 0]
        some = take(spec.tree, going, state)
        cut = {
            name: _rows(value, going) if name in (*spec.per_step, *spec.per_row) else value
            for name, value in arguments[t].items()
        }
        _, new = as_forward(model, step_of)(model.network, spec, _rows(inputs[t], going), some, **cut)
        state = write_rows(spec.tree, state, going, new, num_rows)
    return state


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.index_select(0, index.to(tensor.device))


def without_padding(prompt: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Prompts whose last value is repeated to the end, so that `embed` gets real values alone, and the last values."""
    if lengths is None:
        return prompt, prompt[:, -1]
    last = (lengths.to(prompt.device) - 1).long()
    step = torch.arange(prompt.shape[1], device=prompt.device)
    row = torch.arange(prompt.shape[0], device=prompt.device)
    return prompt[row[:, None], torch.minimum(step, last[:, None])], prompt[row, last]

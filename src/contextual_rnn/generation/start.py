"""Where trajectories start: the states of all rows, and the prompts that are run before."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

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
from contextual_rnn.states import ContextDropout, InitialState
from contextual_rnn.states._heads import check_call


def initial_rows(
    model: ContextualRNN,
    context: Any,
    batch: int | None,
    num_samples: int,
    sample: bool,
    generator: torch.Generator | None,
    guided: bool,
) -> tuple[list[State], int]:
    """States of all conditions as one batch, and how many each has: `num_samples` draws, or one where all are alike.

    A single example is a batch of one. With `guided` there are those of the context and those of the null state.
    """

    def make(initial_state: InitialState, context: Any, batch: int | None) -> tuple[State, int]:
        spec, copies = initial_state.spec, 1
        if sample:
            size = check_call(batch, generator=generator)
            state, copies = initial_state._draws(context, num_samples, size, generator, True)
        else:
            leaves, first = spec.unpack(initial_state(context, batch)), next(iter(spec))
            if leaves[first.name].ndim == len(first.shape):
                leaves = {name: leaf[None] for name, leaf in leaves.items()}
            state = spec.pack(leaves)
        check_made(model.network, initial_state, state)  # here, where both are of the dtype that FSDP computes with
        return state, copies

    start, run = model.initial_state, as_forward(model, make)
    if not guided:
        state, copies = run(start, context, batch)
        return [state], copies
    assert isinstance(start, ContextDropout)
    given, of_given = run(start.state, context, batch)
    null, of_null = run(start.null, None, num_rows_of(model._spec, given) // of_given)
    copies, pairs = max(of_given, of_null), ((given, of_given), (null, of_null))
    return [repeated_rows(model._spec, state, copies // of_state) for state, of_state in pairs], copies


def num_rows_of(spec: StateSpec, state: State) -> int:
    """The batch size of a state."""
    return next(iter(spec.check(state).values())).shape[0]


def repeated_rows(spec: StateSpec, state: State, copies: int) -> State:
    """A state with each row `copies` times."""
    if copies == 1:
        return state
    leaf = next(iter(spec.check(state).values()))
    return take(spec.tree, torch.arange(leaf.shape[0], device=leaf.device).repeat_interleave(copies), state)


def run_prompt(
    functions: Functions,
    states: Sequence[State],
    prompt: Tensor,
    lengths: Tensor | None,
    conditions: Tensor,
    copies: int,
    generator: torch.Generator | None,
) -> Sequence[State]:
    """The states after all but the last value of each prompt; all arguments have the rows of `states`.

    Each row stands for `copies` rows of what is generated after it.
    """
    model, num_rows, steps = functions.model, prompt.shape[0], prompt.shape[1] - 1
    if not steps:
        return states
    rows = torch.arange(num_rows, device=conditions.device)
    first_copies, all_rows = copies * rows, copies * num_rows
    at = [GenerationStep(t - steps, first_copies, conditions, all_rows, generator) for t in range(steps)]
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

        padded = over_time(inputs)
        return [as_forward(model, run)(padded, state)[1] for state in states]
    for t in range(steps):
        going = rows if lengths is None else (lengths.to(rows.device) > t + 1).nonzero()[:, 0]
        cut = {
            name: _rows(value, going) if name in (*spec.per_step, *spec.per_row) else value
            for name, value in arguments[t].items()
        }
        one_step, after = _rows(inputs[t], going), []
        for state in states:
            some = take(spec.tree, going, state)
            _, new = as_forward(model, step_of)(model.network, spec, one_step, some, **cut)
            after.append(write_rows(spec.tree, state, going, new, num_rows))
        states = after
    return states


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

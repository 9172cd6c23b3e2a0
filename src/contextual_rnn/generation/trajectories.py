"""Generate sequences from a distribution over initial states."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from contextual_rnn._numbers import check_elements, check_flag, check_size
from contextual_rnn._torch_internals import not_compiled
from contextual_rnn.generation.arguments import (
    check_functions,
    check_guidance,
    check_search,
    checked_stop,
    device_of,
    values_before,
)
from contextual_rnn.generation.beam_search import beam_search
from contextual_rnn.generation.functions import Function, Functions
from contextual_rnn.generation.rollout import Generated, roll_out
from contextual_rnn.generation.start import initial_rows, num_rows_of, repeated_rows, run_prompt, without_padding
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.spec.steps import evaluation
from contextual_rnn.spec.tree import State


@overload
def generate(
    model: ContextualRNN, step: Function, first: Tensor, *, num_steps: int, hx: State | None = None,
    context: Any = None, num_samples: int = 1, sample: bool = True, embed: Function | None = None,
    stop: int | Function | None = None, sampler: Function | None = None, beams: int | None = None,
    length_penalty: float = 0.0, guidance: float | None = None, return_outputs: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor: ...  # fmt: skip
@overload
def generate(
    model: ContextualRNN, step: Function, first: None = None, *, num_steps: int, prompt: Tensor | None = None,
    lengths: Tensor | None = None, hx: State | None = None, context: Any = None, num_samples: int = 1,
    sample: bool = True, embed: Function | None = None, stop: int | Function | None = None,
    sampler: Function | None = None, beams: int | None = None, length_penalty: float = 0.0,
    guidance: float | None = None, return_outputs: bool = False, generator: torch.Generator | None = None,
) -> Generated: ...  # fmt: skip
@torch.no_grad()
@not_compiled
def generate(
    model: ContextualRNN,
    step: Function,
    first: Tensor | None = None,
    *,
    num_steps: int,
    prompt: Tensor | None = None,
    lengths: Tensor | None = None,
    hx: State | None = None,
    context: Any = None,
    num_samples: int = 1,
    sample: bool = True,
    embed: Function | None = None,
    stop: int | Function | None = None,
    sampler: Function | None = None,
    beams: int | None = None,
    length_penalty: float = 0.0,
    guidance: float | None = None,
    return_outputs: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor | Generated:
    """Generate `num_samples` sequences for each of B conditions, feeding back what is generated.

        h(0) ~ initial state given the context, or its mean, then run over the prompt but for its last value v(0)
        o(t+1), h(t+1) = network(embed(v(t)), h(t))        v(t+1) = step(o(t+1), v(t))

    `prompt` is (B, P, *value), P >= 1, with `lengths` (B,) from 1 where prompts end earlier; all values but the last
    are run before. `first` (B, *value) is a prompt of one value, and has `values` alone returned. With neither, the
    network runs by itself, from an input of zeros or what `embed` makes, and the first value is None.

    `context` is what the context network takes, of batch size B; `hx`, of B rows as the network takes it, is used
    instead of an initial state. With `sample=False` every trajectory starts at the mean state. `embed` makes values
    (N, *value) the network's input (N, ...), or returns it and a dict of further arguments of the network for these
    rows; by default they are that input. `step` makes the output (N, H) and the last value the next value, or that and
    its log-probability (N,). Row b * num_samples + s is sample s of condition b.

    With a `sampler`, `step` returns scores (N, K) of the next token instead, and `sampler(scores)` draws: a
    `TokenSampler`, or a function that returns tokens, or these and their log-probabilities. With `beams`, the
    `num_samples` likeliest of that many hypotheses are searched from one state a condition, by
    sum log p / length ** length_penalty. `guidance` w, for a `ContextDropout`, runs each row from the state of the
    context and from the null state, and draws from null + w * (given - null) of the log-probabilities: 1 is the
    context alone.

    A row ends with the token `stop`, or where `stop(value)` is True, (N,) of bool, and is not run any further. Each
    function also gets a `GenerationStep` where it has one more argument without a default: `step(output, value, at)`.
    Draws by `at.rand` are made for all rows, so that no row's stop changes another. `generator` makes these draws, the
    sampler's and those of the states repeatable. Runs without gradients and in evaluation mode. On a CPU the steps are
    those of `ContextualRNN.stream` where it has a native kernel, equal to rounding; the model's backend "torch" keeps
    torch's own.

    Returns a `Generated`; with `first` its values alone, (B, num_samples, num_steps, *value).
    Raises ValueError for sizes that do not fit, a missing context, an initial state of another dtype or device than
    the network's, a bidirectional network or one of which it stays unknown whether it takes sequences (`StateSpec`),
    and options that exclude each other; TypeError for arguments of another type and a network that returns no state.
    Source of the guidance: Ho and Salimans 2022, as Sanchez et al. 2023 apply it to tokens.
    """
    if not isinstance(model, ContextualRNN):
        raise TypeError(f"model: expected a ContextualRNN, got {type(model).__name__}")
    num_steps, num_samples = check_size("num_steps", num_steps), check_size("num_samples", num_samples)
    check_elements(num_steps=num_steps, num_samples=num_samples)
    check_functions(step, embed, sampler)
    stop = checked_stop(stop)
    check_flag("sample", sample)
    check_flag("return_outputs", return_outputs)
    values, lengths, name = values_before(first, prompt, lengths)
    beams = check_search(beams, length_penalty, num_samples, sampler, values)
    check_guidance(guidance, model, hx, scores=sampler is not None or beams is not None)
    batch = None if values is None else values.shape[0]
    if hx is not None:
        batch = num_rows_of(model._spec, hx) if batch is None else batch
        model._check_state(hx, batch)
    functions = Functions(model, step, embed, stop, sampler, guidance, name)
    with evaluation(model):
        states, drawn, per_condition = [hx], 1, num_samples if beams is None else beams
        if hx is None:
            samples = num_samples if beams is None else 1
            guided = guidance is not None
            states, drawn = initial_rows(model, context, batch, samples, sample, generator, guided)
        batch = num_rows_of(model._spec, states[0]) // drawn if batch is None else batch
        check_elements(batch=batch, num_samples=per_condition)
        # Rows that are alike in the prompt are run once; their inputs may differ if `embed` knows which row is which.
        in_prompt = num_samples if beams is None and functions.reads_rows else drawn
        states = [repeated_rows(model._spec, state, in_prompt // drawn) for state in states]
        conditions = torch.arange(batch, device=device_of(model, values)).repeat_interleave(in_prompt)
        value, more = None, per_condition // in_prompt
        if values is not None:
            if in_prompt > 1:
                values = values.index_select(0, conditions.to(values.device))
                lengths = None if lengths is None else lengths.repeat_interleave(in_prompt)
            values, value = without_padding(values, lengths)
            states = run_prompt(functions, states, values, lengths, conditions, more, generator)
        if more > 1:
            states = [repeated_rows(model._spec, state, more) for state in states]
            conditions = conditions.repeat_interleave(more)
            value = None if value is None else value.repeat_interleave(more, 0)
        if beams is None:
            shape = (batch, num_samples)
            generated = roll_out(functions, states, value, conditions, shape, num_steps, generator, return_outputs)
        else:
            assert value is not None
            sizes = {"beams": beams, "num_best": num_samples, "num_steps": num_steps}
            generated = beam_search(
                functions, states, value, conditions, **sizes, length_penalty=length_penalty, generator=generator,
                keep_outputs=return_outputs,
            )  # fmt: skip
    return generated if first is None else generated.values

"""Roll a model out from its initial states: many trajectories a condition."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import check_elements, check_flag, check_size
from contextual_rnn._sharded import as_forward
from contextual_rnn._tensors import check_dense
from contextual_rnn.rnn import ContextualRNN, check_made
from contextual_rnn.spec.steps import check_step, evaluation, step_of


@torch.no_grad()
def generate(
    model: ContextualRNN,
    step: Callable[[Tensor, Tensor], Tensor],
    first: Tensor,
    *,
    num_steps: int,
    context: Any = None,
    num_samples: int = 1,
    sample: bool = True,
    embed: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Generate `num_samples` sequences for each of B conditions, feeding back what is generated.

        v(0) = first        h(0) ~ initial state given the context (or its mean)
        o(t+1), h(t+1) = network(embed(v(t)), h(t))        v(t+1) = step(o(t+1), v(t))

    `first` is (B, *value), `context` what the context network takes, of batch size B. `step` maps the network's
    output (B * num_samples, H) and the last value (B * num_samples, *value) to the next value: add a predicted
    change, or draw a token. `embed` makes a value the network's input, (rows, input_size); by default the value
    itself. Row b * num_samples + s is sample s of condition b. With `sample=False` every trajectory starts at the
    mean state. `generator` makes the draw of the states repeatable. Runs without gradients and in evaluation mode.

    Returns v(1 .. num_steps), (B, num_samples, num_steps, *value).
    Raises ValueError for sizes that do not fit, a missing context, an initial state of another dtype or device than
    the network's, a bidirectional network or one of which it stays unknown whether it takes sequences (`StateSpec`),
    TypeError for arguments of another type and a network that returns no state.
    """
    if not isinstance(model, ContextualRNN):
        raise TypeError(f"model: expected a ContextualRNN, got {type(model).__name__}")
    num_steps, num_samples = check_size("num_steps", num_steps), check_size("num_samples", num_samples)
    if not callable(step):
        raise TypeError(f"step: expected a function, got {type(step).__name__}")
    if not (embed is None or callable(embed)):
        raise TypeError(f"embed: expected a function or None, got {type(embed).__name__}")
    check_flag("sample", sample)
    check_dense("first", first, "a tensor of shape (batch, *value)")
    if first.ndim < 1:
        raise ValueError("first: expected a tensor of shape (batch, *value), got one without axes")
    batch = first.shape[0]
    with evaluation(model):
        state = as_forward(model, _start)(model, context, batch, num_samples, sample, generator)
        check_made(model.network, model.initial_state, state)
        check_elements(batch=batch, num_samples=num_samples)
        value, values = first.repeat_interleave(num_samples, 0), []
        spec = model._spec
        for number in range(num_steps):
            inputs = value if embed is None else embed(value)
            if spec.known_time_dim == "unknown" and spec.step is None:
                spec = model._known_spec(inputs)
            try:
                output, state = as_forward(model, step_of)(model.network, spec, inputs, state)
            except (RuntimeError, IndexError, TypeError, AttributeError):
                name = "embed" if embed is not None else "step" if number else "first"
                check_step(name, model.network, spec, inputs)
                raise
            value = step(output, value)
            if not isinstance(value, Tensor):
                raise TypeError(f"step: expected a function that returns a tensor, got {type(value).__name__}")
            if value.shape[:1] != (batch * num_samples,):
                raise ValueError(f"step: expected values of {batch * num_samples} rows, got {tuple(value.shape)}")
            values.append(value)
    return torch.stack(values, 1).unflatten(0, (batch, num_samples))


def _start(
    model: ContextualRNN, context: Any, batch: int, num_samples: int, sample: bool, generator: torch.Generator | None
) -> Any:
    initial_state = model.initial_state
    if sample:
        return initial_state.sample(context, num_samples, batch_size=batch, generator=generator)
    spec = initial_state.spec
    leaves = spec.unpack(initial_state(context, batch))
    return spec.pack({name: leaf.repeat_interleave(num_samples, 0) for name, leaf in leaves.items()})

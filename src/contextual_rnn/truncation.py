"""Truncated back-propagation through time: a long batch in pieces, the state carried on without its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import check_size
from contextual_rnn._sharded import as_forward
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.sequences.batch import Sequences
from contextual_rnn.sequences.fast_weights import check_cut
from contextual_rnn.sequences.program import run_by
from contextual_rnn.spec.arguments import merged
from contextual_rnn.spec.rows import map_tensors
from contextual_rnn.spec.tree import State


def truncated(
    model: ContextualRNN,
    input: Tensor,
    steps: int,
    hx: State | None = None,
    *,
    context: Any = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    reset_context: Any = None,
    generator: torch.Generator | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Iterator[tuple[slice, Tensor, State]]:
    """Run a padded batch in pieces of `steps` steps, each from the detached final state of the one before.

        for piece, output, state in truncated(model, x, 50, context=context, lengths=lengths):
            criterion(output, target[:, piece]).backward()  # nothing flows into an earlier piece
            optimizer.step()
            optimizer.zero_grad()

    Gives for each piece the slice of its steps, the output there and the state after it; the numbers of one long run,
    as long as nothing is learned in between. The other arguments are those of `ContextualRNN`; those for the network
    are in `arguments`. Output is zero beyond a row's end and its state stays, pieces end with the longest row, and a
    reset begins anew from the initial state as the parameters are then, with its gradient. Of fast weights the state
    has the final A, which is carried too.

    Raises as `ContextualRNN` does, ValueError for a bidirectional network, whose first output needs the last input.
    """
    if not isinstance(model, ContextualRNN):
        raise TypeError(f"model: expected a ContextualRNN, got {type(model).__name__}")
    steps = check_size("steps", steps)
    given: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset, "reset_context": reset_context}
    given["arguments"] = merged(arguments, {})
    name = next((name for name in ("reset", "lengths", "mask") if given[name] is not None), None)
    run = partial(run_by, model, lambda network: name)  # values say too how many pieces there are
    sequences = run(as_forward(model, Sequences.of), model, input, context, generator, **given, pieces="steps")
    if hx is not None:
        model._check_state(hx, sequences.batch)  # pyright: ignore[reportPrivateUsage]
        check_cut(model.network, sequences.spec, hx, sequences.batch)
    return _pieces(model, sequences, steps, hx, run)


def _pieces(
    model: ContextualRNN, sequences: Sequences, steps: int, hx: State | None, run: Callable[..., Any]
) -> Iterator[tuple[slice, Tensor, State]]:
    carried, starts = None, range(0, sequences.num_steps, steps)
    # Cut at once: a piece that is cut alone has a gradient of the whole length, and there are as many as pieces.
    inputs = sequences.inputs.split([min(steps, sequences.num_steps - start) for start in starts])
    for start, cut in zip(starts, inputs, strict=True):
        stop = min(start + steps, sequences.num_steps)
        piece = run(sequences.steps, start, stop)
        if piece.over:
            return
        piece = replace(piece, arguments=cut.arguments)
        tensors = cut.tensor, piece.context, piece.reset_context
        output, state = run(as_forward(model, _run), piece, *tensors, hx=hx, carried=carried)
        yield slice(start, stop), output, state
        carried = detach(state)


def _run(piece: Sequences, input: Tensor, context: Any, reset_context: Any, **states: State) -> tuple[Tensor, State]:
    """The piece with these tensors for its own: FSDP casts what it receives as an argument."""
    return replace(piece, input=input, context=context, reset_context=reset_context).run(**states, carry=True)


def detach(state: State) -> State:
    """A detached state of any structure: no gradient flows from it to earlier steps.

    output, state = model(x, context=context)
    output, state = model(more, detach(state))

    Raises ValueError for a state that is nested too deeply, such as a list in itself.
    """
    try:
        return map_tensors(Tensor.detach, state)
    except RecursionError:
        raise ValueError("state: expected tensors in tuples, lists and dicts, got too many of them nested") from None

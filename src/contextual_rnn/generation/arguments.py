"""Checks of the arguments of `generate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contextual_rnn._lengths import check_lengths
from contextual_rnn._numbers import check_function, check_number, check_size
from contextual_rnn._tensors import check_readable
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.states import ContextDropout


def check_functions(step: Any, embed: Any, sampler: Any) -> None:
    """Refuse what is no function, or None where one may be left out."""
    check_function("step", step)
    for name, function in (("embed", embed), ("sampler", sampler)):
        if function is not None:
            check_function(name, function, "a function or None")


def checked_stop(stop: Any) -> Any:
    """`stop` as a function, an int or None."""
    return stop if stop is None or callable(stop) else check_size("stop", stop, 0)


def check_search(beams: int | None, length_penalty: float, num_samples: int, sampler: Any, first: Any) -> int | None:
    """The number of beams as an int; refuse what does not go with them."""
    length_penalty = check_number("length_penalty", length_penalty)
    if beams is None:
        if length_penalty:
            raise ValueError(f"length_penalty: expected 0 without beams, got {length_penalty}")
        return None
    beams = check_size("beams", beams)
    if beams < num_samples:
        raise ValueError(f"beams: expected at least num_samples, {num_samples}, got {beams}")
    if sampler is not None:
        raise ValueError(f"sampler: expected None beside beams, got {type(sampler).__name__}")
    if first is None:
        raise ValueError("beams: expected only with first or prompt, got neither")
    return beams


def check_guidance(guidance: float | None, model: ContextualRNN, hx: Any, scores: bool) -> None:
    """Refuse a guidance without the two states and the scores that it needs."""
    if guidance is None:
        return
    check_number("guidance", guidance)
    if not isinstance(model.initial_state, ContextDropout):
        kind = type(model.initial_state).__name__
        raise ValueError(f"guidance: expected only with a ContextDropout as initial state, got a {kind}")
    if hx is not None:
        raise ValueError("guidance: expected None beside hx, which takes the place of both states")
    if not scores:
        raise ValueError("guidance: expected only with a sampler or beams, which draw from scores, got neither")


def values_before(
    first: Tensor | None, prompt: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor | None, Tensor | None, str | None]:
    """The prompt (B, P, *value), its lengths, and the argument that it was given as; None without any."""
    name = None
    if first is not None:
        if prompt is not None:
            raise ValueError("prompt: expected None beside first, which is a prompt of one value")
        check_readable("first", first, "a tensor of shape (batch, *value)")
        if first.ndim < 1:
            raise ValueError("first: expected a tensor of shape (batch, *value), got one without axes")
        prompt, name = first[:, None], "first"
    elif prompt is not None:
        check_readable("prompt", prompt, "a tensor of shape (batch, steps, *value)")
        if prompt.ndim < 2 or not prompt.shape[1]:
            shape = tuple(prompt.shape)
            raise ValueError(f"prompt: expected a tensor of shape (batch, steps, *value), steps >= 1, got {shape}")
        name = "prompt"
    if lengths is not None:
        if name != "prompt":
            raise ValueError("lengths: expected only with a prompt, got it alone")
        assert prompt is not None
        check_lengths(lengths, prompt.shape[0], prompt.shape[1], least=1)
    return prompt, lengths, name


def device_of(model: ContextualRNN, values: Tensor | None) -> torch.device:
    """Where the numbers of rows are: with the network, or with the values where it has no parameters.

    Raises ValueError for a network on meta, whose values cannot be drawn from.
    """
    parameter = next(model.network.parameters(), None)
    if parameter is not None:
        if parameter.is_meta:
            raise ValueError("model: expected a network whose parameters have values, got one on meta")
        return parameter.device
    return torch.get_default_device() if values is None else values.device

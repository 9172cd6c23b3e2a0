"""The functions of a generation, called as the user wrote them and checked in what they return."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import shortened
from contextual_rnn._precision import wide
from contextual_rnn._tensors import check_dense
from contextual_rnn.generation.network_steps import NetworkSteps
from contextual_rnn.generation.sampling import check_scores, check_tokens, log_probs_of
from contextual_rnn.generation.step import GenerationStep, with_step
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.spec.arguments import is_arguments
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.steps import check_step
from contextual_rnn.spec.tree import State

Function = Callable[..., Any]


class Functions:
    """A model and the functions that make its next input and the next value of its output.

    With `guidance` there are two states of the same rows, from the context and from the null state, and
    scores = null + guidance * (given - null).
    """

    def __init__(
        self,
        model: ContextualRNN,
        step: Function,
        embed: Function | None,
        stop: int | Function | None,
        sampler: Function | None,
        guidance: float | None,
        first_name: str | None,
    ):
        self.model, self.guidance, self.first_name, self.embeds = model, guidance, first_name, embed is not None
        self.spec: StateSpec = model._spec
        self._network_steps = [NetworkSteps(model) for _ in range(1 if guidance is None else 2)]
        self._step = with_step("step", step, 2)
        self._embed = None if embed is None else with_step("embed", embed, 1)
        self.reads_rows = embed is not None and self._embed is embed  # whether inputs may differ between alike rows
        self._stop = with_step("stop", stop, 1) if callable(stop) else stop
        self.can_stop = stop is not None
        self._sampler = None if sampler is None else with_step("sampler", sampler, 1)

    def inputs(self, value: Tensor | None, at: GenerationStep) -> tuple[Any, Mapping[str, Any]]:
        """The network's input of one step, (N, ...), and its further arguments."""
        if self._embed is None:
            return self._no_input(at) if self.first_name is None else value, {}
        returned = self._embed(value, at)
        if not isinstance(returned, tuple):
            return returned, {}
        if len(returned) != 2 or not is_arguments(returned[1]):
            kinds = ", ".join(type(part).__name__ for part in returned)
            raise TypeError(f"embed: expected a tensor, or it and a dict of arguments, got a tuple of {kinds}")
        inputs, arguments = returned
        for name in {*self.spec.per_step, *self.spec.per_row} & arguments.keys():
            check_dense(name, arguments[name])
            if arguments[name].shape[:1] != at.rows.shape:
                raise ValueError(f"{name}: expected {len(at.rows)} rows, got {tuple(arguments[name].shape)}")
        return inputs, arguments

    def _no_input(self, at: GenerationStep) -> Tensor:
        """Zeros for a network that runs by itself."""
        network, size = self.model.network, getattr(self.model.network, "input_size", 0)
        parameter = next(network.parameters(), None)
        like = torch.empty(0, device=at.rows.device) if parameter is None else parameter
        return torch.zeros(at.rows.shape[0], size, dtype=like.dtype, device=like.device)

    def advance(
        self, value: Tensor | None, states: Sequence[State], at: GenerationStep
    ) -> tuple[Sequence[Tensor], Sequence[State]]:
        """One step of the network for the rows of `at`, from each of `states`, which it may overwrite."""
        inputs, arguments = self.inputs(value, at)
        self.know_spec(inputs)
        network = self.model.network
        try:
            steps = zip(self._network_steps, states, strict=True)
            outputs, new = zip(*[step(self.spec, inputs, state, arguments) for step, state in steps], strict=True)
        except (RuntimeError, IndexError, TypeError, AttributeError, ValueError):
            name = "embed" if self.embeds else "step" if at.number > 0 else self.first_name or "network"
            check_step(name, network, self.spec, inputs, at.rows.shape[0])
            raise
        return outputs, new

    def know_spec(self, inputs: Any) -> None:
        """Find out whether the network takes sequences, where only a trial can say; `inputs` are of one step."""
        if self.spec.known_time_dim == "unknown" and self.spec.step is None:
            self.spec = self.model._known_spec(inputs)

    def next(self, outputs: Sequence[Tensor], value: Tensor | None, at: GenerationStep) -> tuple[Tensor, Tensor | None]:
        """The next value (N, *value) and its log-probability (N,), where there is one."""
        rows = at.rows.shape[0]
        if self._sampler is not None:
            scores = self.scores(outputs, value, at)
            value, log_prob = _pair("sampler", self._sampler(scores, at), rows)
            if log_prob is None:
                if value.dtype != torch.int64 or value.shape != (rows,):
                    received = f"{value.dtype} of shape {tuple(value.shape)}"
                    raise ValueError(f"sampler: expected int64 tokens of shape ({rows},), got {received}")
                check_tokens(value, scores.shape[-1])
                log_prob = log_probs_of(scores, value)
            return value, log_prob
        return _pair("step", self._step(outputs[0], value, at), rows)

    def scores(self, outputs: Sequence[Tensor], value: Tensor | None, at: GenerationStep) -> Tensor:
        """Scores of the next token, (N, K)."""
        parts = [self._step(output, value, at) for output in outputs]
        for part in parts:
            check_scores("step", part, at.rows.shape[0])
        if self.guidance is None:
            return parts[0]
        given, null = (wide(part).log_softmax(-1) for part in parts)
        # A token that one of the two excludes has -inf there; -inf - -inf would be NaN.
        guided = null + self.guidance * (given - null)
        return guided.masked_fill(given.isneginf() | null.isneginf(), -torch.inf)

    def stopped(self, value: Tensor, at: GenerationStep) -> Tensor:
        """Which rows end with `value`, (N,) of bool."""
        rows = at.rows.shape[0]
        if not callable(self._stop):
            if value.shape != (rows,) or value.is_floating_point() or value.is_complex():
                received = f"{value.dtype} of shape {tuple(value.shape)}"
                raise ValueError(f"stop: expected a function, as values are no tokens ({rows},), got {received}")
            return value == self._stop
        stopped = self._stop(value, at)
        if not isinstance(stopped, Tensor) or stopped.dtype != torch.bool:
            received = stopped.dtype if isinstance(stopped, Tensor) else shortened(stopped)
            raise TypeError(f"stop: expected a function that returns a tensor of bool, got {received}")
        if stopped.shape != (rows,):
            raise ValueError(f"stop: expected flags of shape ({rows},), got {tuple(stopped.shape)}")
        return stopped.to(at.rows.device)


def _pair(name: str, returned: Any, rows: int) -> tuple[Tensor, Tensor | None]:
    """A value and a log-probability, or a value alone, as a function has returned them."""
    value, log_prob = returned, None
    if isinstance(returned, tuple) and len(returned) == 2:
        value, log_prob = returned
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a function that returns a tensor, got {type(value).__name__}")
    if not value.ndim or value.shape[0] != rows:
        raise ValueError(f"{name}: expected values of {rows} rows, got {tuple(value.shape)}")
    if log_prob is not None and (not isinstance(log_prob, Tensor) or log_prob.shape != (rows,)):
        received = tuple(log_prob.shape) if isinstance(log_prob, Tensor) else shortened(log_prob)
        raise ValueError(f"{name}: expected log-probabilities of shape ({rows},), got {received}")
    return value, log_prob

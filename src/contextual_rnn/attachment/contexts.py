"""The contexts of the forward calls under way.

A context belongs to a forward call. torch.utils.checkpoint may run a call once more in a backward pass, when another
context is given or none: so every context is marked with the backward pass in which it was given, and a call that is
recomputed gets what `compute_again` recorded in its forward pass.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from contextual_rnn._torch_internals import graph_task, untraced
from contextual_rnn.states._recomputed import compute_again


@dataclass(frozen=True, eq=False)
class _Given:
    """A context, for one network, for those of one host, or for all."""

    context: Any
    network: nn.Module | None
    host: str | None
    backward_pass: int

    def is_for(self, network: nn.Module, host: str | None) -> bool:
        if self.host is not None:
            return self.host == host
        return self.network is None or self.network is network


# From the outermost to the innermost.
_all_given: ContextVar[tuple[_Given, ...]] = ContextVar("contextual_rnn_given", default=())


@contextmanager
def given_context(context: Any, *, network: nn.Module | None = None) -> Generator[None, None, None]:
    """The context of every attached initial state that runs inside, or of that of `network` alone.

        attach(model.lstm, ContextState(model.lstm, encoder))
        with given_context(static):
            loss = model(batch)

    The innermost one counts. It holds for the thread that enters it. A call inside of torch.utils.checkpoint keeps it
    in the recomputation, wherever `backward` runs. In a generator that yields inside, it holds until the generator goes
    on, for all that runs meanwhile, as does torch.no_grad: generators that run in turns must not yield inside. Raises
    TypeError for a `network` that is no module, ValueError for one without an attached state.
    """
    if network is not None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"network: expected a module or None, got {type(network).__name__}")
        if not is_attached(network):
            raise ValueError(f"network: expected one with an attached initial state, got {type(network).__name__}")
    given = _begin(context, network, None)
    try:
        yield
    finally:
        _end(given)


def is_attached(network: nn.Module) -> bool:
    """Whether `attach` gave this network an initial state."""
    return HOOK in vars(network)


HOOK = "_initial_state_hook"  # of a network: what removes its hook, and the key of its host


def begin_call(host: str, context: Any) -> None:
    """The forward call of a host begins."""
    _begin(context, None, host)


def end_call(host: str) -> None:
    """The innermost forward call of a host is over."""
    for given in reversed(_all_given.get()):
        if given.host == host:
            return _end(given)


def _begin(context: Any, network: nn.Module | None, host: str | None) -> _Given:
    given = _Given(context, network, host, _backward_pass())
    _all_given.set((*_all_given.get(), given))
    return given


def _end(given: _Given) -> None:
    """Take away this one alone: where generators run in turns, others may have begun since, and are not over."""
    _all_given.set(tuple(other for other in _all_given.get() if other is not given))


@untraced
def context_of(network: nn.Module, host: str | None) -> Any:
    """The context of the forward call of `network` that is under way; ValueError where none was given for it."""
    backward_pass = _backward_pass()
    # Always asked, for a recomputation reads what was recorded in order.
    given = recorded = compute_again(lambda: _find(network, host, backward_pass))
    if backward_pass != -1:
        given = _find(network, host, backward_pass) or recorded
    if given is None:
        raise ValueError(
            f"context: expected one for the initial state of {described(network)}, got none; {_hint(host)}"
        )
    return given.context


def described(network: nn.Module) -> str:
    """A network in one line."""
    return f"{type(network).__name__}({network.extra_repr()})"


def _find(network: nn.Module, host: str | None, backward_pass: int) -> _Given | None:
    for given in reversed(_all_given.get()):
        if given.backward_pass == backward_pass and given.is_for(network, host):
            return given
    return None


def _hint(host: str | None) -> str:
    if _backward_pass() != -1:
        return "it runs in a backward pass, not in a call that torch.utils.checkpoint is known to recompute"
    parts = ["run the model inside `with given_context(context):`"]
    if host is None:
        parts.append('or attach(..., host=model, context="the name of an argument of its forward method")')
    else:
        parts.append("or call its host as a module, not by `forward` or another method")
    if threading.current_thread() is not threading.main_thread():
        parts.append("in this thread: one given in another thread does not count here")
    return ", ".join(parts)


def _backward_pass() -> int:
    """The number of the backward pass under way in this thread, -1 for none."""
    return -1 if torch.compiler.is_compiling() else graph_task()

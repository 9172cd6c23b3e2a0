"""Watch a model while it runs: replace its initial state by another, collect its h(t)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from contextual_rnn._autocast import in_autocast
from contextual_rnn._sharded import as_forward
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.spec.networks import StateSpec, state_spec
from contextual_rnn.spec.steps import copied
from contextual_rnn.spec.tree import State
from contextual_rnn.states import InitialState, Moments

# Losses (B, T) or (B,), with h(t) (B, T, H) beside them where it was seen.
Found = tuple[Tensor, Tensor | None]


class Intercept:
    """The one initial state of a model, and the network whose h(t) is read.

    After `run(losses, None)` the state that the model made is in `state`, its moments in `moments`. Raises ValueError
    for a model with no initial state or several.
    """

    def __init__(self, model: nn.Module, network: nn.Module | None):
        self.initial_state = _initial_state_in(model)
        if network is None:
            around = (m for m in model.modules() if isinstance(m, ContextualRNN))
            network = next((m.network for m in around if m.initial_state is self.initial_state), None)
        self.network = network
        self.state: State = None
        self.moments: Mapping[str, Moments] = {}
        self._context: Any = None

    def run(self, losses: Callable[[], Any], state: State | None) -> Found:
        """Run `losses` with `state` instead of the model's own initial state, unless it is None."""
        calls = 0

        def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: State) -> State | None:
            nonlocal calls
            calls += 1
            # Copies: a network may overwrite the state that it is given.
            pair = kwargs.get("return_posterior", False)
            if state is not None:
                return (copied(state), output[1]) if pair else copied(state)
            self.state = copied(output[0] if pair else output)
            self._remember(*args, **kwargs)
            return None

        handle = self.initial_state.register_forward_hook(replace, with_kwargs=True)
        try:
            outcome = watch(losses, self.network)
        finally:
            handle.remove()
        if calls != 1:
            raise ValueError(f"losses: expected one call of the initial state, got {calls}")
        if outcome[1] is not None:
            self.network = None  # `losses` returns h(t), and its native kernels need no hook
        return outcome

    def draw(self, seed: int) -> State:
        """A draw of the state that the model made."""
        first = next(iter(self.moments.values())).mean
        generator = torch.Generator(first.device).manual_seed(seed)
        return self.initial_state.sample(self._context, batch_size=first.shape[0], generator=generator)

    def _remember(
        self,
        context: Any = None,
        batch_size: int | None = None,
        *,
        batched: bool | None = None,
        rows: Tensor | None = None,
        **_: Any,
    ) -> None:
        moments = as_forward(self.initial_state, self.initial_state._moments)  # pyright: ignore[reportPrivateUsage]
        self._context, self.moments = context, moments(context, batch_size, batched)
        sequences = len(next(iter(self.moments.values())).mean)
        if rows is not None and len(rows) != sequences:
            raise ValueError(
                f"losses: expected one initial state for each of {sequences} sequences, got {len(rows)}; "
                "leave out reset="
            )


def watch(losses: Callable[[], Any], network: nn.Module | None) -> Found:
    """Run `losses`, which returns losses or (losses, h); where h needs a gradient, it is else read off `network`.

    Elsewhere there is no hook, beside which no native kernel runs the network.
    """
    seen: list[Tensor] = []
    with ExitStack() as hooks:
        # In a bidirectional network h(t) depends on all steps: an influence after t steps is not defined.
        network = network if torch.is_grad_enabled() else None
        if network is not None and not (spec := state_spec(network)).bidirectional:
            hook = network.register_forward_hook(lambda module, args, output: seen.append(_hidden(output, spec)))
            hooks.callback(hook.remove)
        outcome: Any = losses()
    if torch.is_grad_enabled() and len({hidden.requires_grad for hidden in seen}) == 2:
        raise ValueError("losses: expected h(t) with a gradient at every step, got steps without; leave out burn_in=")
    if not (isinstance(outcome, tuple) and len(outcome) == 2):
        outcome = (outcome, _joined(seen) if seen else None)
    return outcome


def _joined(seen: list[Tensor]) -> Tensor:
    """h(t) of all calls one after the other; autocast on a CPU refuses to join float16."""
    if len(seen) == 1:
        return seen[0]  # without a copy, in each of a hundred runs
    if not in_autocast(seen[0].device):
        return torch.cat(seen, 1)
    with torch.autocast(seen[0].device.type, enabled=False):
        return torch.cat(seen, 1)


def _hidden(output: Any, spec: StateSpec) -> Tensor:
    """h(t), (B, T, H), of what a network or cell returns."""
    while isinstance(output, tuple | list | Mapping) and not isinstance(output, PackedSequence):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    if isinstance(output, PackedSequence):
        return pad_packed_sequence(output, batch_first=True)[0]
    batch, time = spec.input_batch_dim, spec.known_time_dim
    if time is None or output.ndim == 2:  # one step
        return output.movedim(batch, 0).flatten(1).unsqueeze(1)
    return output.movedim((batch, time if isinstance(time, int) else 1 - batch), (0, 1)).flatten(2)


def _initial_state_in(model: nn.Module) -> InitialState:
    """The outermost initial state in `model`: one for each leaf, or a mean, may be inside of it."""
    states = [module for module in model.modules() if isinstance(module, InitialState)]
    nested = {id(part) for module in states for part in module.modules() if part is not module}
    outer = [module for module in states if id(module) not in nested]
    if len(outer) != 1:
        raise ValueError(f"model: expected one initial state in it, got {len(outer)}")
    return outer[0]

"""A network inside somebody else's model, which starts from an initial state where it is called without one."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from contextual_rnn._lengths import packed_batch_size
from contextual_rnn._numbers import check_function, shortened
from contextual_rnn._sharded import set_around
from contextual_rnn.attachment.contexts import HOOK, context_of, described, is_attached
from contextual_rnn.attachment.host import Receive, receive, remove_from
from contextual_rnn.attachment.processes import check_averaged, check_not_sharded
from contextual_rnn.rnn import check_made
from contextual_rnn.spec.networks import StateSpec, spec_of
from contextual_rnn.spec.steps import own_copy
from contextual_rnn.spec.tree import State, fits, map_leaves
from contextual_rnn.states import InitialState
from contextual_rnn.states._heads import MissingContextError, batch_of

Network = TypeVar("Network", bound=nn.Module)


def attach(
    network: Network,
    state: InitialState,
    *,
    host: nn.Module | None = None,
    context: str | Callable[..., Any] | None = None,
) -> Network:
    """Have `network`, wherever it is called without a state, start from `state`; returns `network`.

        attach(model.lstm, ContextState(model.lstm, encoder))
        with given_context(static):
            loss = model(batch)

        attach(model.lstm, ContextState(model.lstm, encoder), host=model, context="static")
        loss = model(batch, static=static)

    The network keeps its class, arguments, attributes and weight names. The state becomes its submodule
    `initial_state`, which is moved, trained, copied and saved with it. A state that the network is called with is used
    as it is. The context is that of `given_context`, or what the forward method of `host` gets: the argument named
    `context`, the key of that name in one of its arguments, "argument.key", or what a function `context` returns for
    the arguments of that method. A function that cannot be imported, such as a lambda, cannot be pickled.

    Raises TypeError for a network without a registered spec, one whose forward method takes no state or does not get
    it from its spec's `call` as one argument, and for arguments of another type; ValueError for a state made for
    another network, a second state, a host without `context` or the reverse, and a network that fully_shard has
    sharded. The forward pass raises ValueError where the context is missing, where the model repeats its rows and the
    context does not, and in a DistributedDataParallel that was made before the state was attached.
    """
    spec = spec_of(network)
    if not isinstance(state, InitialState):
        raise TypeError(f"state: expected an InitialState, got {type(state).__name__}")
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a module, got {type(network).__name__}")
    if not fits(spec.tree, state.spec.tree):
        raise ValueError(f"state: expected one for {spec.describe()}, got one for {state.spec.describe()}")
    if hasattr(network, "initial_state"):
        raise ValueError(f"network: expected one without an initial state, got {type(network).__name__} that has one")
    _check_host(host, context)
    check_not_sharded(network, state)
    key = None if host is None else uuid4().hex
    input, hx, position = _names(network, spec)
    start = _Start(spec, input, hx, key, position)
    network.add_module("initial_state", state)
    # Kept with the network: torch counts hooks, and a handle that is loaded keeps its number from being used again.
    vars(network)[HOOK] = network.register_forward_pre_hook(start, with_kwargs=True), key
    if host is not None:
        assert key is not None
        assert context is not None
        receive(host, key, Receive(key, context))
    set_around(state, network)
    return network


def remove_initial_state(model: nn.Module) -> None:
    """Undo `attach` for every network in `model`, itself included: nothing of it is left.

    Raises TypeError for what is no module, ValueError for a model without an attached state and for one that is
    attached with a host outside `model`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a module, got {type(model).__name__}")
    networks = [module for module in model.modules() if is_attached(module)]
    if not networks:
        raise ValueError(f"model: expected one with an attached initial state, got {type(model).__name__} without")
    remove_from(model, {key for network in networks if (key := vars(network)[HOOK][1]) is not None})
    for network in networks:
        vars(network).pop(HOOK)[0].remove()
        if hasattr(network, "initial_state"):  # somebody may have deleted it
            del network.initial_state


@dataclass(frozen=True)
class _Start:
    """The hook that gives a network its state; it reads the network's own attributes, for models are copied."""

    spec: StateSpec
    input: str
    hx: str
    host: str | None
    position: int = 1  # of the state among the arguments; models that were pickled before have it here

    def __call__(self, network: nn.Module, args: tuple[Any, ...], options: dict[str, Any] | None = None) -> Any:
        if options is None or not isinstance(getattr(network, "initial_state", None), InitialState):
            raise ValueError(
                f"network: expected the one to which the initial state was attached, got {described(network)} of "
                f"{type(network).__module__}, which took over its hooks alone, as quantisation replaces networks; "
                "quantise first, and attach to the new network"
            )
        place = self.position
        if (args[place] if len(args) > place else options.get(self.hx)) is not None:
            return None
        if not args and self.input not in options:
            return None  # which the network refuses
        state = self.state(network, args[0] if args else options[self.input])
        if len(args) > place:
            return (*args[:place], state, *args[place + 1 :]), options
        return args, {**options, self.hx: state}

    def state(self, network: nn.Module, input: Tensor | PackedSequence) -> State:
        packed = isinstance(input, PackedSequence)
        batch_size = packed_batch_size(input) if packed else self.spec.input_batch_size(input)
        initial_state = network.initial_state
        assert isinstance(initial_state, InitialState)
        if not torch.compiler.is_compiling():
            set_around(initial_state, network)  # of a copy too, which `attach` has not seen
            check_averaged(network, initial_state)
        context = context_of(network, self.host) if initial_state.reads_context else None
        try:
            state = initial_state(context, batch_size, batched=batch_size is not None)
        except MissingContextError as error:
            hint = "given_context" if self.host is None else "its host the argument that attach(..., context=...) names"
            raise ValueError(
                f"context: expected one for the initial state of {described(network)}, got None; give {hint}"
            ) from error
        except ValueError as error:
            _refuse_repeated_rows(network, context, batch_size, error)
            raise
        check_made(network, initial_state, state)
        return own_copy(network, state)


def _refuse_repeated_rows(network: nn.Module, context: Any, batch_size: int | None, error: ValueError) -> None:
    """Name the factor where the input has a multiple of the context's rows."""
    try:
        rows = batch_of(context, None, None)
    except ValueError:
        return
    if rows and batch_size and batch_size > rows and batch_size % rows == 0:
        raise ValueError(
            f"context: expected {batch_size} rows, as the input of {described(network)}, got {rows}: the model repeats "
            f"rows {batch_size // rows} times, as for samples; give it a context whose rows are repeated likewise"
        ) from error


def _check_host(host: object, context: object) -> None:
    if host is not None and not isinstance(host, nn.Module):
        raise TypeError(f"host: expected a module or None, got {type(host).__name__}")
    if host is None:
        if context is not None:
            raise ValueError(f"context: expected None without a host, got {shortened(context)}")
    elif context is None:
        raise ValueError("context: expected the name of an argument of the host's forward or a function, got None")
    elif not isinstance(context, str):
        check_function("context", context, "a name or a function")


def _names(network: nn.Module, spec: StateSpec) -> tuple[str, str, int]:
    """How the forward method of a network calls its input and its state, and at which place it takes the state."""
    names = [
        parameter.name
        for parameter in inspect.signature(network.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
    ]
    kind = type(network).__name__
    state = _state_of_call(network, spec) if names and callable(spec.call) else 1
    if state is None:
        raise TypeError(
            f"network: expected one that takes its state as one argument, got {kind}, whose `call` does not"
        )
    if isinstance(state, str):
        return names[0], state, names.index(state) if state in names else sys.maxsize
    if len(names) <= state:
        raise TypeError(f"network: expected a forward method that takes an input and a state, got {kind}'s of {names}")
    return names[0], names[state], state


def _state_of_call(network: nn.Module, spec: StateSpec) -> str | int | None:
    """The name or place under which the `call` of a spec gives a network its state; None where it gives its parts."""
    received: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class Recorder:
        def __call__(self, *args: Any, **options: Any) -> Any:
            received.append((args, options))
            raise NotImplementedError

        def __getattr__(self, name: str) -> Any:
            return getattr(network, name)

    state = map_leaves(lambda leaf: object(), spec.tree)
    with contextlib.suppress(Exception):  # what `call` does beside the call of the network is its own matter
        assert callable(spec.call)
        spec.call(cast(nn.Module, Recorder()), cast(Tensor, object()), state)
    if not received:
        return 1
    args, options = received[0]
    places = [*enumerate(args), *options.items()]
    return next((place for place, value in places if value is state), None)

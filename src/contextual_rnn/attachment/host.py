"""The model around a network: its forward method gets the context."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import Any

from torch import nn

from contextual_rnn._numbers import check_takes
from contextual_rnn._torch_internals import untraced
from contextual_rnn.attachment.contexts import begin_call, end_call

_HANDLES = "_initial_state_contexts"  # of a host: for each key what removes its hooks


@dataclass(frozen=True)
class Receive:
    """The hook that takes the context out of what a host's forward method gets."""

    key: str
    context: str | Callable[..., Any]

    @untraced
    def __call__(self, host: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        begin_call(self.key, None)  # `Release` runs after an error too, and must not end a call around this one
        if isinstance(self.context, str):
            context = _argument(host, self.context, args, options)
        else:
            context = _called(self.context, host, args, options)
        end_call(self.key)
        begin_call(self.key, context)

    def __deepcopy__(self, memo: dict[int, Any]) -> Receive:
        return Receive(self.key, copy.deepcopy(self.context, memo))

    def __getstate__(self) -> dict[str, Any]:
        if inspect.isfunction(self.context) and not _can_be_imported(self.context):
            raise TypeError(
                f"context: expected a function that can be imported, to pickle it, got {self.context.__qualname__} of "
                f"{self.context.__module__}; define it by `def` in a module, or name an argument"
            )
        return dict(vars(self))


@dataclass(frozen=True)
class _Release:
    """The hook that forgets the context when the forward call of a host is over, also by an error."""

    key: str

    @untraced
    def __call__(self, host: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        end_call(self.key)


def receive(host: nn.Module, key: str, hook: Receive) -> None:
    """Have `host` give contexts to the network attached under `key`."""
    vars(host).setdefault(_HANDLES, {})[key] = (
        host.register_forward_pre_hook(hook, with_kwargs=True),
        host.register_forward_hook(_Release(key), always_call=True),
    )


def remove_from(model: nn.Module, keys: set[str]) -> None:
    """Remove the hooks of hosts in `model`; ValueError, before anything is removed, where a host is outside."""
    hosts = [module for module in model.modules() if _HANDLES in vars(module)]
    if missing := keys - {key for host in hosts for key in vars(host)[_HANDLES]}:
        raise ValueError(
            f"model: expected the host of every attached state inside, got {type(model).__name__} without that of "
            f"{len(missing)}; give the host, or a module around both"
        )
    for host in hosts:
        handles = vars(host)[_HANDLES]
        for key in keys & handles.keys():
            for handle in handles.pop(key):
                handle.remove()
        if not handles:
            del vars(host)[_HANDLES]


def _argument(host: nn.Module, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The argument `name` of a call of `host`, or what the key `name` holds in the one argument that has it."""
    forward = host.forward
    # What a host holds itself may hold the host, which the cache would keep alive, and need not be hashable.
    try:
        if inspect.ismethod(forward) and forward.__func__ is getattr(type(host), "forward", None):
            bound = _signature(forward.__func__).bind(host, *args, **options)
        else:
            bound = inspect.signature(forward).bind(*args, **options)
    except TypeError as error:
        raise TypeError(f"{type(host).__name__}.forward: {error}") from error
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    if name in arguments:
        return arguments[name]
    whole, _, key = name.partition(".")
    having = [argument for argument in arguments.values() if _has(argument, name)]
    if len(having) == 1:
        return having[0][name]
    if key and _has(arguments.get(whole), key):
        return arguments[whole][key]
    names = ", ".join(argument for argument in arguments if argument != "self")
    count = f"the key in {len(having)} of them" if having else "no such key in them"
    raise ValueError(
        f"context: expected {name!r} to be an argument of {type(host).__name__}.forward or a key of one, got arguments "
        f"{names}, and {count}"
    )


def _called(function: Callable[..., Any], host: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """`function` of what the forward method of a host gets; TypeError where it cannot take that."""
    try:
        return function(*args, **options)
    except TypeError:
        expected = f"a function of what {type(host).__name__}.forward gets"
        check_takes("context", function, expected, *args, **options)
        raise


def _has(argument: Any, key: str) -> bool:
    if isinstance(argument, nn.Module) or not (isinstance(argument, Mapping) or hasattr(argument, "keys")):
        return False
    return key in argument.keys()  # noqa: SIM118, a TensorDict is no Mapping


@lru_cache(maxsize=64)
def _signature(function: FunctionType) -> inspect.Signature:
    return inspect.signature(function)


def _can_be_imported(function: Callable[..., Any]) -> bool:
    value: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        value = getattr(value, name, None)
    return value is function

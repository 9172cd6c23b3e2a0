"""What a call is, which there are, and what each is documented to raise."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.draw import Draw
from torch import nn

# Modules with public names; those of the first three are in `__all__`, the rest is imported by name.
WITH_ALL = ("contextual_rnn", "contextual_rnn.ops", "contextual_rnn.diagnostics")
BY_NAME = (
    "contextual_rnn.export", "contextual_rnn.hub", "contextual_rnn.serialization",
    "contextual_rnn.experiments.cli.main",
)  # fmt: skip


@dataclass
class Call:
    """A valid call.

    `expect` raises AssertionError where a result is not what the documentation says, `finish` makes numbers of the
    result. `alone` runs the user's network without us: an error that it raises too is the network's. `also` is what
    the call may raise besides, `keep` the arguments that stay as they are.

    `changes` says that arguments may change, `same` that a second call returns the same, `makes` that it makes things
    by torch's defaults, `plain` that its tensors can have no other layout, `gradient` that `finish` differentiates,
    `lenient` that a valid call may be refused.
    """

    function: Callable[..., Any]
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    expect: Callable[[Any], None] | None = None
    alone: Callable[[Call], Any] | None = None
    changes: bool = False
    same: bool = True
    makes: bool = False
    plain: bool = False
    gradient: bool = False
    lenient: bool = False
    also: tuple[type[BaseException], ...] = ()
    keep: tuple[str, ...] = ()
    finish: Callable[[Any], Any] = lambda result: result

    def places(self) -> list[int | str]:
        """The arguments that may be replaced."""
        return [place for place in (*range(len(self.args)), *self.kwargs) if str(place) not in self.keep]

    def run(self) -> Any:
        return self.finish(self.function(*self.args, **self.kwargs))


Build = Callable[[Draw], Call]
CASES: dict[str, Build] = {}


def case(*names: str) -> Callable[[Build], Build]:
    """Register the build of valid calls of these public names."""

    def register(build: Build) -> Build:
        for name in names:
            assert name not in CASES, name
            CASES[name] = build
        return build

    return register


def public_names() -> list[str]:
    """Every public function, class and method of the library, such as `ContextState` and `ContextState.forward`."""
    found: dict[str, None] = {}
    for module_name in (*WITH_ALL, *BY_NAME):
        module = importlib.import_module(module_name)
        names = module.__all__ if module_name in WITH_ALL else [n for n in vars(module) if not n.startswith("_")]
        for name in names:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            if module_name in BY_NAME and getattr(value, "__module__", None) != module_name:
                continue
            found[name] = None
            if inspect.isclass(value):
                found |= dict.fromkeys(f"{owner}.{method}" for owner, method in _methods(value))
    return list(found)


def _methods(kind: type) -> Iterator[tuple[str, str]]:
    """Public methods that a class of ours defines, each under the public class it is called on."""
    for base in kind.__mro__:
        if not base.__module__.startswith("contextual_rnn") or not (base is kind or base.__name__.startswith("_")):
            continue
        for name, value in vars(base).items():
            method = isinstance(value, property | classmethod) or inspect.isfunction(value)
            hidden = name.startswith("_") or getattr(value, "__name__", name).startswith("_")
            if method and not hidden and not getattr(value, "__isabstractmethod__", False):
                yield kind.__name__, name


def documented(function: Callable[..., Any]) -> tuple[type[BaseException], ...]:
    """The exceptions that the documentation of a function, its class and what it overrides names."""
    texts, owner = [inspect.getdoc(function) or ""], getattr(function, "__self__", None)
    if inspect.isclass(function):
        owner = function
    if owner is not None:
        kind = owner if inspect.isclass(owner) else type(owner)
        name = getattr(function, "__name__", "")
        for base in kind.__mro__:
            if base.__module__.startswith("contextual_rnn"):
                texts += [vars(base).get("__doc__") or "", getattr(vars(base).get(name), "__doc__", None) or ""]
                if isinstance(function, nn.Module):
                    texts.append(getattr(vars(base).get("forward"), "__doc__", None) or "")
    names = set(re.findall(r"\b[A-Z]\w*(?:Error|Exception)\b", " ".join(texts)))
    kinds = [getattr(builtins, name, None) for name in names | {"ValueError", "TypeError"}]
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseException))

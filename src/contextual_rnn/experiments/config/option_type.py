"""The types of options: what each is in words, which values it has, and how one is read and written as a word.

One table for configurations, grids, and the commands that are recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


class _Kind(NamedTuple):
    words: str
    values: type
    read: Callable[[str], Any]


def _truth(word: str) -> bool:
    return {"true": True, "false": False}[word.lower()]


KINDS: dict[type, _Kind] = {
    bool: _Kind("True or False", bool, _truth),
    int: _Kind("an int", Integral, int),
    float: _Kind("a number", Real, float),
    str: _Kind("text", str, str),
}


def _finite(name: str, number: Any, kind: type) -> Any:
    if isinstance(number, Integral) and (bits := int(number).bit_length()) > 63:
        raise ValueError(f"{name}: expected a number that 64 bits hold, got one of {bits} bits")
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number!r}")
    return kind(number)


@dataclass(frozen=True)
class OptionType:
    """One of `KINDS`, perhaps only some texts, perhaps None too."""

    kind: type
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def words(self) -> str:
        """What is expected of a value."""
        words = f"one of {', '.join(self.choices)}" if self.choices else KINDS[self.kind].words
        return f"{words} or None" if self.optional else words

    def checked(self, name: str, value: Any) -> Any:
        """`value` as a configuration has it: an int where a float is expected becomes one, nothing else changes."""
        if value is None and self.optional:
            return None
        belongs = isinstance(value, KINDS[self.kind].values) and (self.kind is bool or not isinstance(value, bool))
        if self.choices and not (belongs and value in self.choices):
            raise ValueError(f"{name}: expected {self.words}, got {value!r}")
        if not belongs:
            raise TypeError(f"{name}: expected {self.words}, got {value!r}")
        if self.optional and value == "None":
            raise ValueError(f"{name}: expected {self.words}, got the text 'None', which a command line reads as None")
        return _finite(name, value, self.kind) if self.kind in (int, float) else value

    def read(self, word: str) -> Any:
        """The value that a word says. Raises ValueError where it says none."""
        if word in self.choices:
            return word
        if self.optional and (word == "None" or (word.lower() == "none" and (self.choices or self.kind is not str))):
            return None
        if not self.choices:
            with contextlib.suppress(ValueError, KeyError):
                return KINDS[self.kind].read(word)
        raise ValueError(f"expected {self.words}, got {word!r}")

    def flag(self, name: str) -> str:
        """The option on a command line; underscores at the ends of its name stay."""
        inner = name.strip("_")
        return "--" + name.replace(inner, inner.replace("_", "-"), 1)

    def written(self, name: str, value: Any) -> list[str]:
        """The words of a command line that say `value`."""
        if self.kind is bool and not self.optional:
            return [self.flag(name if value else f"no_{name}")]
        word = str(value)
        return [f"{self.flag(name)}={word}"] if word.startswith("-") else [self.flag(name), word]


def option_type(name: str, annotation: Any) -> OptionType:
    """The type of an option by its annotation. Raises TypeError, which names the types that there are, for others."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    rest = [member for member in members if member is not NoneType]
    if len(rest) == 1:
        choices = get_args(rest[0]) if get_origin(rest[0]) is Literal else ()
        if rest[0] in KINDS or (choices and all(isinstance(choice, str) for choice in choices)):
            return OptionType(str if choices else rest[0], choices, len(members) > 1)
    raise TypeError(
        f"{name}: expected an option of type bool, int, float, str or a Literal of texts, or one of these and None, "
        f"got {inspect.formatannotation(annotation)}"
    )


@functools.cache
def option_types(config: type) -> dict[str, OptionType]:
    """The types of a configuration's options by name, in their order."""
    annotations = get_type_hints(config)
    return {option.name: option_type(option.name, annotations[option.name]) for option in dataclasses.fields(config)}

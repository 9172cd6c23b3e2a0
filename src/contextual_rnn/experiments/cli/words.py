"""How the words of a command line become commands and numbers. A refusal says what was expected and received."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import groupby
from types import NoneType
from typing import Any, get_args

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from contextual_rnn.experiments.config.option_type import OptionType

REGISTRY = ConstructorRegistry()


def check_name(kind: str, word: str, names: Iterable[str], others: str = "") -> None:
    """Raises ValueError for a word that is none of `names`, with the one that is most like it."""
    names = list(names)
    if word not in names:
        near = difflib.get_close_matches(word, names, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{kind}: expected one of {', '.join(names)}{others}, got {word!r}{meant}")


def one_line(printed: str) -> str:
    """What tyro says of words that it refuses, without frame and help, and with the option that is most like one."""
    _, *lines = [line.strip("│| ") for line in printed.splitlines()]
    by_rule = groupby(lines, lambda line: set(line) <= set("╰─╯+-"))
    parts = [" ".join(part) for ruled, part in by_rule if not ruled] or [printed.strip()]
    refused, known = parts[0], {word for part in parts[1:] for word in part.split() if word.startswith("--")}
    words = refused.replace(",", " ").split()
    near = [match for word in words for match in difflib.get_close_matches(word, sorted(known), 1)]
    return f"{refused}; did you mean {', '.join(near)}?" if near and refused.startswith("Unrecognized") else refused


@REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Of type int, float, one of them or None, or a tuple of them."""
    kinds = get_args(info.type) or (info.type,)
    optional, several = NoneType in kinds, Ellipsis in kinds
    rest = set(kinds) - {NoneType, Ellipsis}
    if len(rest) != 1 or not rest <= {int, float}:
        return None
    (kind,) = rest

    def parse(word: str) -> Any:
        return None if optional and word == "None" else OptionType(kind).read(word)

    name = f"{'{None}|' if optional else ''}{kind.__name__.upper()}"
    return PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=f"[{name} [{name} ...]]" if several else name,
        instance_from_str=lambda words: tuple(map(parse, words)) if several else parse(words[0]),
        is_instance=lambda value: isinstance(value, tuple if several else int | kind) or (optional and value is None),
        str_from_instance=lambda value: list(map(str, value)) if several else [str(value)],
    )

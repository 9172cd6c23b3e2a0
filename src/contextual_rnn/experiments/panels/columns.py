"""Which column of a table is what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from contextual_rnn._numbers import check_size, listed, shortened

KINDS = ("quantity", "category", "set")
TOKENS = ("bytes", "characters")


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns, and what each means.

    `target` is predicted. Rows with the same `series` are one sequence, in the order of `time`; without `series` all
    rows are one, without `time` they stand in their order. The network sees `inputs` at every step. Where `target` is
    among them, it is the target of the step before. `context` is constant over a series. `window` is the number of
    steps before each start that a window of the past shows. `group` is a column that series have in common, such as the
    hospital of a patient.

    `kinds` says what a column is where recognition would be wrong: "quantity", "category", "set" for lists, "set:;" for
    text in which a semicolon separates the members, and for the target "bytes" or "characters": text, of which each row
    is one sequence. A gap of at most `fill_gaps` steps is filled with steps whose values are missing; a longer gap
    begins a new piece of the series.

    Raises TypeError for names that are no text, ValueError for a column in two roles, an unknown kind, and negative
    sizes.
    """

    target: str
    series: str | None = None
    time: str | None = None
    inputs: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    window: int = 0
    group: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    fill_gaps: int = 10

    def __post_init__(self) -> None:
        for role in ("inputs", "context"):
            object.__setattr__(self, role, _names(role, getattr(self, role)))
        for role in ("target", "series", "time", "group"):
            name = getattr(self, role)
            if not isinstance(name, str) and (name is not None or role == "target"):
                raise TypeError(f"{role}: expected the name of a column, got {shortened(name)}")
        for name in ("window", "fill_gaps"):
            object.__setattr__(self, name, check_size(name, getattr(self, name), 0))
        self._check_roles()
        _check_kinds(self.kinds, self)
        object.__setattr__(self, "kinds", MappingProxyType(dict(self.kinds)))

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        single = (self.series, self.time, self.group)
        names = [*(name for name in single if name is not None), *self.inputs, *self.context, self.target]
        return tuple(dict.fromkeys(names))

    @property
    def reads_itself(self) -> bool:
        """Whether the target of the step before is an input."""
        return self.target in self.inputs

    def to_dict(self) -> dict[str, Any]:
        """As values that JSON can hold; `Columns(**values)` makes the same again."""
        return {**vars(self), "kinds": dict(self.kinds)}

    def _check_roles(self) -> None:
        single = {role: getattr(self, role) for role in ("target", "series", "time")}
        roles: dict[str, str] = {}
        for role, name in single.items():
            if name is not None and roles.setdefault(name, role) != role:
                raise ValueError(f"{role}: expected another column than {roles[name]}, got {name!r} for both")
        for name in self.inputs:
            if name in (self.series, self.time):
                raise ValueError(f"inputs: expected columns of values, got {name!r}, which is {roles[name]}")
        inputs = set(self.inputs)
        for name in self.context:
            if name in (self.target, self.time):
                raise ValueError(f"context: expected columns known before the start, got {name!r}, {roles[name]}")
            if name in inputs:
                raise ValueError(f"context: expected columns that are no inputs, got {name!r} in both")


def _names(role: str, names: Any) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{role}: expected a list of names, got the text {names!r}")
    try:
        names = tuple(names)
    except TypeError:
        raise TypeError(f"{role}: expected a list of names, got {shortened(names)}") from None
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{role}: expected names of columns, got {shortened(name)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{role}: expected each column once, got {listed(names)}")
    return names


def _check_kinds(kinds: Any, columns: Columns) -> None:
    if not isinstance(kinds, Mapping):
        raise TypeError(f"kinds: expected a dict from columns to kinds, got {shortened(kinds)}")
    described = {*columns.inputs, *columns.context, columns.target}
    for name, kind in kinds.items():
        if name not in described:
            raise ValueError(f"kinds: expected columns among inputs, context and target, got {name!r}")
        if not isinstance(kind, str):
            raise TypeError(f"kinds: expected a text for {name!r}, got {shortened(kind)}")
        allowed = (*KINDS, "set:;")
        if name == columns.target:
            allowed = (*KINDS[:2], *TOKENS)
        if kind not in allowed and not (kind.startswith("set:") and len(kind) > 4 and "set" in allowed):
            raise ValueError(f"kinds: expected one of {', '.join(allowed)} for {name!r}, got {kind!r}")

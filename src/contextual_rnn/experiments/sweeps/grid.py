"""The runs of a sweep: every combination of some values of some options."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contextual_rnn._numbers import listed
from contextual_rnn.experiments.config import Config, OptionType, option_types
from contextual_rnn.experiments.runs.json_file import read_text


def grid_from_words(words: Sequence[str]) -> dict[str, list[str]]:
    """{"state": ["zero", "free"], "units": ["50"]} from state=zero,free and units=50; ValueError for other words."""
    grid: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not (name and equals and all(values.split(","))):
            raise ValueError(f"grid: expected option=value,value,..., got {word!r}")
        _add(grid, name, values.split(","))
    return grid


def grid_from_file(path: Path) -> dict[str, list[str]]:
    """The same from TOML, a line an option: state = ["zero", "free"]. ValueError, which names the file, for others."""
    try:
        options = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"grid: expected TOML in {path}, got something else: {error}") from error
    grid: dict[str, list[str]] = {}
    for name, values in options.items():
        if isinstance(values, dict) or values == []:
            raise ValueError(f"grid: expected a value or a list of values for {name} in {path}, got {values!r}")
        _add(grid, name, [str(value) for value in (values if isinstance(values, list) else [values])])
    return grid


def _add(grid: dict[str, list[str]], name: str, values: list[str]) -> None:
    name = name.replace("-", "_")
    if name in grid:
        raise ValueError(f"grid: expected every option once, got {name} twice")
    grid[name] = values


def combinations(base: Config, grid: Mapping[str, Sequence[str]], seeds: int | None = None) -> list[Config]:
    """`base` with every combination of the grid's values, each with seeds 0 .. seeds - 1; the seed varies fastest.

    Raises ValueError for an option that `base` does not have, a value that is not of its type, one that comes twice,
    and for a combination that the configuration refuses.
    """
    kinds = option_types(type(base))
    if unknown := sorted(set(grid) - set(kinds)):
        raise ValueError(f"grid: expected some of {', '.join(sorted(kinds))}, got {', '.join(unknown)}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    if seeds is not None and "seed" in grid:
        raise ValueError("seeds: expected either a number of seeds or seed in the grid, got both")
    values = {name: [_value(name, text, kinds[name]) for text in texts] for name, texts in grid.items()}
    for name, chosen in values.items():
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"grid: expected every value of {name} once, got {listed(chosen)}")
    if seeds is not None:
        values["seed"] = list(range(seeds))
    configs = []
    for choice in itertools.product(*values.values()):
        options = dict(zip(values, choice, strict=True))
        try:
            configs.append(dataclasses.replace(base, **options))
        except ValueError as error:
            combination = ", ".join(f"{name}={value}" for name, value in options.items())
            raise ValueError(f"grid: the combination {combination} is refused: {error}") from error
    return configs


def _value(name: str, text: str, kind: OptionType) -> Any:
    try:
        return kind.read(text)
    except ValueError:
        raise ValueError(f"grid: expected {kind.words} for {name}, got {text!r}") from None

"""The saved parts of a feature of a context network: its numbers, and words for what is not a number."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, replace
from numbers import Real
from typing import Any

CATEGORIES = "categories"


def numbers_of(feature: Any) -> dict[str, float]:
    """The fields that are numbers, by name."""
    values = {field.name: getattr(feature, field.name) for field in fields(feature)}
    return {n: float(value) for n, value in values.items() if isinstance(value, Real) and not isinstance(value, bool)}


def with_numbers(features: Mapping[str, Any], numbers: Iterable[float]) -> dict[str, Any]:
    """The features with other numbers, all of them in order; ValueError for one that a feature cannot have."""
    rest = iter(numbers)
    return {
        name: replace(feature, **{field: next(rest) for field in numbers_of(feature)})
        for name, feature in features.items()
    }


def described(feature: Any) -> str:
    """The kind of a feature and its fields that are no numbers; of categories how many, and a digest."""
    words = [type(feature).__name__]
    for field in fields(feature):
        value = getattr(feature, field.name)
        if field.name == CATEGORIES:
            words.append(f"{len(value)} {_digest(value)}")
        elif not isinstance(value, Real) or isinstance(value, bool):
            words += [field.name] if value is True else [] if value in (False, None) else [f"{field.name} {value}"]
    return " ".join(words)


def _digest(categories: Iterable[Hashable]) -> str:
    return hashlib.blake2b(repr([_spelled(each) for each in categories]).encode(), digest_size=4).hexdigest()


def _spelled(category: Any) -> str:
    """The same text in every process: a category of an unknown type counts as its type alone."""
    category = category.tolist() if hasattr(category, "tolist") else category  # numpy's own repr has changed
    if isinstance(category, tuple):
        return f"({', '.join(map(_spelled, category))})"
    if isinstance(category, Real):
        return repr(float(category))  # 1, 1.0 and True are one category
    return repr(category) if isinstance(category, str | bytes | None) else type(category).__name__

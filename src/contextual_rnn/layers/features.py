"""The kinds of static covariates, and what the training data says of them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from contextual_rnn._entries import entries_of, plain
from contextual_rnn._numbers import POSITIVE, SHARE, check_flag, check_number, listed, shortened


@dataclass(frozen=True)
class Categorical:
    """One of `categories`, encoded as its index; with `unknown` a further bucket, the last, takes every other value.

    Nothing in the training data falls into that bucket: `dropout` is the share of training values put there, so that
    what an unknown category does is learned. Raises TypeError or ValueError for no or doubled categories, and for a
    dropout outside 0 to 1 or without the bucket.
    """

    categories: Sequence[Hashable]
    unknown: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_categories(self)
        check_flag("unknown", self.unknown)
        object.__setattr__(self, "dropout", check_number("dropout", self.dropout, *SHARE))
        if self.dropout and not self.unknown:
            raise ValueError(f"dropout: expected 0 without an unknown bucket, got {self.dropout}")

    @classmethod
    def fit(cls, values: Iterable[Hashable], unknown: bool = False, dropout: float = 0.0) -> Categorical:
        """With the categories of the training data, in the order of their first appearance.

        Raises TypeError for values that are no collection of hashable ones.
        """
        return cls(_once_each(entries_of("values", values, "values of the training data", once=True)), unknown, dropout)


@dataclass(frozen=True)
class Continuous:
    """A quantity, scaled to (value - mean) / std of the training data.

    Raises TypeError or ValueError for a mean that is no finite number and a std that is no finite positive one.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", check_number("mean", self.mean))
        object.__setattr__(self, "std", check_number("std", self.std, *POSITIVE))

    @classmethod
    def fit(cls, values: Iterable[float]) -> Continuous:
        """With mean and standard deviation of the training data; a constant feature gets std 1.

        Raises TypeError or ValueError for no values, ones that are no numbers or not finite.
        """
        numbers = entries_of("values", values, "values of the training data", once=True)
        data = torch.tensor([check_number("values", v) for v in numbers], dtype=torch.float64, device="cpu")
        if not len(data):
            raise ValueError("values: expected at least one, got none")
        std = float(data.std(correction=0))
        rounding = 4 * torch.finfo(data.dtype).eps * float(data.abs().max())
        return cls(float(data.mean()), std if std > rounding else 1.0)


@dataclass(frozen=True)
class SetValued:
    """Any number of `categories` at once, also none, encoded as a row of 0 and 1; `unknown` as for `Categorical`.

    Raises TypeError or ValueError for no or doubled categories.
    """

    categories: Sequence[Hashable]
    unknown: bool = False

    def __post_init__(self) -> None:
        _check_categories(self)
        check_flag("unknown", self.unknown)

    @classmethod
    def fit(cls, values: Iterable[Collection[Hashable]], unknown: bool = False) -> SetValued:
        """With the members of the training data's sets, in the order of their first appearance.

        Raises TypeError for values that are no collections of hashable ones.
        """
        sets = entries_of("values", values, "sets of the training data", once=True)
        return cls(_once_each([member for members in sets for member in members_of("values", members)]), unknown)


Feature = Categorical | Continuous | SetValued


def buckets(feature: Feature) -> int:
    """How many embeddings a feature of categories has."""
    assert not isinstance(feature, Continuous)
    return len(feature.categories) + feature.unknown


def members_of(name: str, values: Any) -> list[Any]:
    """The members of a set in any collection."""
    if isinstance(values, str | bytes) or not isinstance(values, Collection) or getattr(values, "shape", None) == ():
        raise TypeError(f"{name}: expected a collection of members, got {shortened(values)}")
    return [plain(value) for value in values]


def _once_each(values: Iterable[Any]) -> tuple[Hashable, ...]:
    try:
        return tuple(dict.fromkeys(values))
    except TypeError as error:
        raise TypeError(f"values: expected categories that are hashable, got {error}") from None


def _check_categories(feature: Categorical | SetValued) -> None:
    categories = feature.categories
    if isinstance(categories, str | bytes) or not isinstance(categories, Sequence):
        raise TypeError(f"categories: expected a sequence of categories, got {shortened(categories)}")
    if not categories:
        raise ValueError("categories: expected at least one, got none")
    try:
        different = len(set(categories))
    except TypeError as error:
        raise TypeError(f"categories: expected hashable ones, got {error}") from None
    if different < len(categories):
        raise ValueError(f"categories: expected different ones, got {listed(map(repr, categories))}")

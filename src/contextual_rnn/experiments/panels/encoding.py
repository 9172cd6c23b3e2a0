"""Scaling and vocabularies, fitted on training rows alone."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from contextual_rnn._numbers import POSITIVE, check_flag, check_number, check_size, listed
from contextual_rnn.experiments.panels.arrow import Array
from contextual_rnn.experiments.panels.columns import KINDS, Columns
from contextual_rnn.experiments.panels.values import Category, Column, Quantity
from contextual_rnn.layers.context_net import Categorical, Continuous, Feature, SetValued

MOST_CATEGORIES = 256  # of an input: each is a number at every step
LARGEST = 1e150
DROPOUT = 0.05  # the share of training contexts whose category is hidden, so that an unseen one has a meaning


@dataclass(frozen=True)
class Coding:
    """How one column becomes numbers.

    A quantity is (value - mean) / std, 0 where missing; a category or set has a place for each of `categories` and a
    last one for all others. Where training rows have missing values, `missing` adds a place that is 1 for them.
    """

    kind: str
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[Hashable, ...] = ()
    missing: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        check_number("mean", self.mean)
        check_number("std", self.std, *POSITIVE)
        check_flag("missing", self.missing)

    @classmethod
    def fit(cls, name: str, column: Column, most: int | None = None) -> Coding:
        """Of a column of training rows; at most the `most` most frequent categories.

        Raises ValueError for numbers that are too large to compute their standard deviation.
        """
        missing = bool(column.missing.any())
        if isinstance(column, Quantity):
            values = column.values[~column.missing].astype(np.float64)
            if (largest := np.abs(values).max(initial=0)) > LARGEST:
                raise ValueError(f"{name}: expected numbers of at most {LARGEST:g}, to be scaled, got {largest:g}")
            mean = float(values.mean()) if len(values) else 0.0
            std = float(values.std()) if len(values) else 1.0
            rounding = 4 * np.finfo(column.values.dtype).eps * float(np.abs(values).max(initial=0))
            return cls("quantity", mean, std if std > rounding else 1.0, missing=missing)
        codes = column.codes[column.codes >= 0] if isinstance(column, Category) else column.pairs()[1]
        counts = np.bincount(codes, minlength=len(column.categories))
        used = np.flatnonzero(counts)
        if most is not None and len(used) > most:
            used = used[np.argsort(-counts[used], kind="stable")[:most]]
        # Sorted, so that the order of a table's rows does not change what is trained.
        categories = sorted((column.categories[code] for code in used), key=lambda value: (str(type(value)), value))
        if not categories and column.kind == "set":
            categories = [""]  # a network needs a place, also where all sets of the training rows are empty
        return cls(column.kind, categories=tuple(categories), missing=missing)

    @property
    def width(self) -> int:
        """How many numbers a value becomes as an input."""
        return (1 if self.kind == "quantity" else len(self.categories) + 1) + self.missing

    def names(self, name: str) -> list[str]:
        """What each of these numbers is."""
        values = [name] if self.kind == "quantity" else [f"{name} {value}" for value in (*self.categories, "other")]
        return [*values, f"{name} missing"] if self.missing else values

    def places(self, categories: Sequence[Hashable]) -> Array:
        """The place of each of a column's categories; the last entry, for a missing one, is -1.

        A table may hold as numbers what another holds as texts, such as one whose zones are 1 and 2, not 1, 2 and A.
        """
        index = {category: place for place, category in enumerate(self.categories)}
        texts, other = {str(category): place for category, place in index.items()}, len(self.categories)
        places = (index.get(category, texts.get(str(category), other)) for category in categories)
        return np.array([*places, -1], np.int64)

    def coded(self, column: Column) -> Column:
        """A column with places instead of codes, as `numbers` and `feature_values` take it."""
        if isinstance(column, Quantity):
            return column
        places = self.places(column.categories).astype(np.int32)
        return replace(column, codes=places[column.codes], categories=[*self.categories, None])

    def numbers(self, column: Column) -> Array:
        """Numbers (n, width) of a coded column."""
        numbers = np.zeros((len(column), self.width), np.float32)
        missing = column.missing
        if isinstance(column, Quantity):
            numbers[:, 0] = np.where(missing, 0, self.scaled(column))
        elif isinstance(column, Category):
            rows = np.flatnonzero(~missing)
            numbers[rows, column.codes[rows]] = 1
        else:
            numbers[column.pairs()] = 1
        if self.missing:
            numbers[missing, -1] = 1
        return numbers

    def scaled(self, column: Quantity) -> Array:
        """(value - mean) / std, in float64."""
        return (column.values.astype(np.float64) - self.mean) / self.std

    def features(self, name: str) -> dict[str, Feature]:
        """What a context network must take for this column."""
        if self.kind == "category":
            categories = (*self.categories, None) if self.missing else self.categories
            return {name: Categorical(categories, unknown=True, dropout=DROPOUT)}
        feature = (
            Continuous(self.mean, self.std) if self.kind == "quantity" else SetValued(self.categories, unknown=True)
        )
        return {name: feature, f"{name} missing": Continuous(0.0, 1.0)} if self.missing else {name: feature}

    def feature_values(self, name: str, column: Column) -> dict[str, Array]:
        """What a context network takes for the rows of a coded column."""
        missing = column.missing
        if isinstance(column, Category):
            places = column.codes.astype(np.int64)
            if self.missing:  # before the unknown ones, as a category of its own
                places[places == len(self.categories)] += 1
            places[missing] = len(self.categories)
            return {name: places}
        if isinstance(column, Quantity):
            values = {name: np.where(missing, self.mean, column.values)}
        else:
            values = {name: self.numbers(column)[:, : len(self.categories) + 1]}
        return values | {f"{name} missing": missing.astype(np.float64)} if self.missing else values


@dataclass(frozen=True)
class Encoding:
    """The codings of every column of a panel, and how its series are cut; JSON holds all of it."""

    columns: Columns
    inputs: dict[str, Coding]
    context: dict[str, Coding]
    target: Coding
    target_per: str
    length: int | None

    def __post_init__(self) -> None:
        if self.target_per not in ("step", "series"):
            raise ValueError(f"target_per: expected step or series, got {self.target_per!r}")
        if self.length is not None:
            check_size("length", self.length)
        columns = self.columns
        inputs = [name for name in columns.inputs if name != columns.target]
        for role, names, codings in (("inputs", inputs, self.inputs), ("context", columns.context, self.context)):
            if sorted(names) != sorted(codings):
                raise ValueError(f"{role}: expected codings of {listed(names) or 'none'}, got {listed(codings)}")
        for name, coding in {**self.inputs, **self.context, columns.target: self.target}.items():
            kind = columns.kinds.get(name, coding.kind).partition(":")[0]
            if (kind if kind in KINDS else "category") != coding.kind:
                raise ValueError(f"kinds: expected {kind} for {name!r}, as the columns say, got {coding.kind}")

    @property
    def features(self) -> dict[str, Feature]:
        """What a context network must take for the columns of the context."""
        return {key: feature for name, coding in self.context.items() for key, feature in coding.features(name).items()}

    @property
    def target_before(self) -> Coding:
        """The coding of the target of the step before, which may be missing where training has no missing one."""
        return replace(self.target, missing=True)

    def to_json(self) -> str:
        return json.dumps({**vars(self), "columns": self.columns.to_dict()}, indent=1, default=vars)

    @classmethod
    def from_json(cls, text: str) -> Encoding:
        """Raises ValueError for text that is no encoding."""

        def coding(values: dict[str, Any]) -> Coding:
            values = {**values, "categories": tuple(values["categories"])}
            return Coding(**values)

        try:
            values = json.loads(text)
            columns, target = Columns(**values["columns"]), coding(values["target"])
            inputs = {name: coding(each) for name, each in values["inputs"].items()}
            context = {name: coding(each) for name, each in values["context"].items()}
            return cls(columns, inputs, context, target, values["target_per"], values["length"])
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"encoding: expected JSON as to_json writes it, got {error!r}") from None

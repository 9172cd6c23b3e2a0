"""How a panel is split into training, validation and test, and cut into examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from contextual_rnn._numbers import SHARE, check_flag, check_number, check_size, shortened
from contextual_rnn.experiments.panels.arrow import Array, counted

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """What shares of the data train, validate and test.

    `by` is "series": each series is in one part; "group", or the name of the panel's group column: each group is; or
    "time": the first `fractions[0]` of the steps of each series train, the last `fractions[2]` test. With `calendar`,
    "time" cuts every series at the same two times. `seed` draws the series or groups.

    Raises ValueError for fractions that are not three shares above 0 with sum 1, TypeError for other types.
    """

    by: str = "series"
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    seed: int = 0
    calendar: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.by, str):
            raise TypeError(f"by: expected 'series', 'time' or 'group', got {shortened(self.by)}")
        if not isinstance(self.fractions, list | tuple) or len(self.fractions) != 3:
            raise ValueError(f"fractions: expected three, for {', '.join(PARTS)}, got {shortened(self.fractions)}")
        fractions = tuple(check_number("fractions", fraction, *SHARE) for fraction in self.fractions)
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(f"fractions: expected three above 0 with sum 1, got {shortened(self.fractions)}")
        object.__setattr__(self, "fractions", fractions)
        object.__setattr__(self, "seed", check_size("seed", self.seed, 0))
        check_flag("calendar", self.calendar)
        if self.calendar and self.by != "time":
            raise ValueError(f"calendar: expected False without by='time', got True by {self.by!r}")


def split_of(split: Any) -> Split:
    """The argument `split`, by default by series. Raises TypeError for what is no Split."""
    if not (split is None or isinstance(split, Split)):
        raise TypeError(f"split: expected a Split, such as Split('time'), or None, got {shortened(split)}")
    return Split() if split is None else split


@dataclass(frozen=True)
class Examples:
    """Sequences that each begin from an initial state; arrays (N,).

    `first` is the row of the panel's steps where an example starts, `length` its number of steps. `sequence` says where
    its context is, `series` and `group` what it has in common with other examples. An index, a slice or
    a mask selects examples.
    """

    series: Array
    group: Array
    sequence: Array
    first: Array
    length: Array

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: Any) -> Examples:
        index = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        return Examples(*(values[index] for values in vars(self).values()))


def parts_of_units(units: int, split: Split, labels: Array | None = None) -> Array:
    """The part, 0 to 2, of each of 3 or more series or groups; with `labels` each has its share of every label."""
    if units < len(PARTS):
        unit = "series" if split.by == "series" else "groups"
        raise ValueError(f"split: expected at least {len(PARTS)} {unit}, one for each part, got {units}")
    generator = np.random.default_rng(split.seed)
    order = generator.permutation(units)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # The units of a label are neighbours in this order: quotas that are filled along it give each part its share.
    part = np.empty(units, np.int8)
    part[order] = _spread(units, split.fractions, generator)
    return part


def _spread(units: int, fractions: tuple[float, ...], generator: np.random.Generator) -> Array:
    """A part for each of `units` places, such that any run of neighbours has nearly the asked shares."""
    counts = np.round(np.array(fractions[1:]) * units).astype(int)
    counts = np.maximum(counts, 1)
    places = [(np.arange(count) + generator.random()) / count for count in counts]
    places = [(np.arange(units - counts.sum()) + 0.5) / max(units - counts.sum(), 1), *places]
    parts = np.repeat(np.arange(3), [len(place) for place in places])
    return parts[np.argsort(np.concatenate(places), kind="stable")]


def cut(bounds: Array, window: int, length: int | None) -> tuple[Array, Array, Array]:
    """Examples of runs of steps: the run, first step and length of each.

    `bounds` (R, 2) are first and end of each run. Its first `window` steps are a window alone; the rest is cut into
    examples of `length` steps, the last of which may be shorter.
    """
    first, end = bounds[:, 0] + window, bounds[:, 1]
    size = np.maximum(end - first, 0)
    step = np.maximum(size, 1) if length is None else np.full(len(size), length)
    pieces = -(-size // step)
    run = np.repeat(np.arange(len(bounds)), pieces)
    start = first[run] + counted(pieces) * step[run]
    return run, start, np.minimum(step[run], end[run] - start)

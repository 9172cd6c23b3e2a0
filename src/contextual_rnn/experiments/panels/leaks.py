"""Columns that give the target away, and columns that only name their series: warnings, not errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from contextual_rnn.experiments.panels.arrow import Array
from contextual_rnn.experiments.panels.steps import Steps
from contextual_rnn.experiments.panels.values import Category, Column, Quantity

SAME = 0.9999  # a correlation from which on two columns are taken for the same
FEWEST = 8  # series, below which chance gives such a correlation
SAMPLE = 1_000_000  # steps of which inputs are compared with the target


def leaks(
    context: Mapping[str, Column], inputs: Mapping[str, Column], target: Column, per: str, steps: Steps, name: str
) -> list[str]:
    """Sentences on each column from which the target can be read off."""
    warnings = [_names_series(column, values) for column, values in context.items()]
    if per == "series":
        begins = steps.offsets[np.unique(steps.series, return_index=True)[1]]  # of the first piece of each series
        firsts = (
            {column: values.take(begins) for column, values in inputs.items()} if len(begins) == len(target) else {}
        )
        known = {**context, **firsts}
        warnings += [_determines(column, values, name, target, "series") for column, values in known.items()]
    elif isinstance(target, Quantity):
        warnings += [_summarises(column, values, name, target, steps) for column, values in context.items()]
        warnings += [_equals(column, values, name, target) for column, values in inputs.items()]
    else:
        first = np.arange(min(len(target), SAMPLE))
        sample = target.take(first)
        warnings += [
            _determines(column, values.take(first), name, sample, "steps") for column, values in inputs.items()
        ]
    return [warning for warning in warnings if warning is not None]


def _names_series(column: str, values: Column) -> str | None:
    if not isinstance(values, Category) or len(values) < FEWEST:
        return None
    present = values.codes[~values.missing]
    if _distinct(present) < len(present):
        return None
    return f"{column}: every series has its own value, which says nothing of a series that training has not seen"


def _determines(column: str, values: Column, name: str, target: Column, units: str) -> str | None:
    """Whether series, or steps, with the same value always have the same target."""
    both = ~values.missing & ~target.missing
    if both.sum() < FEWEST:
        return None
    value, outcome = _codes(values)[both].astype(np.int64), _codes(target)[both]
    pairs, distinct = _distinct(value * (outcome.max() + 1) + outcome), _distinct(value)
    if pairs == distinct and distinct <= both.sum() / 2 and outcome.max() > outcome.min():
        return f"{column}: possible leak, {units} with the same value always have the same {name}"
    if isinstance(values, Quantity) and isinstance(target, Quantity) and _same_order(values, target.values):
        return f"{column}: possible leak, it is in the same order as {name} over all series"
    return None


def _summarises(column: str, values: Column, name: str, target: Quantity, steps: Steps) -> str | None:
    """Whether a quantity of each series is its first, last, mean, least or largest target."""
    if not isinstance(values, Quantity):
        return None
    present = np.flatnonzero(~target.missing)
    series = np.repeat(steps.series, np.diff(steps.offsets))[present]
    begins = np.flatnonzero(np.append(True, series[1:] != series[:-1]))
    observed, numbers = series[begins], target.values[present].astype(np.float64)
    counts = np.diff(np.append(begins, len(series)))
    summaries = {
        "first": numbers[begins],
        "last": numbers[begins + counts - 1],
        "mean": np.add.reduceat(numbers, begins) / counts,
        "least": np.minimum.reduceat(numbers, begins),
        "largest": np.maximum.reduceat(numbers, begins),
    }
    for which, summary in summaries.items():
        if _same_order(values.take(observed), summary):
            return f"{column}: possible leak, it is in the same order as the {which} {name} of each series"
    return None


def _equals(column: str, values: Column, name: str, target: Quantity) -> str | None:
    if not isinstance(values, Quantity):
        return None
    every = max(len(values) // SAMPLE, 1)
    value, outcome = values.values[::every], target.values[::every]
    both = ~np.isnan(value) & ~np.isnan(outcome)
    if both.sum() < FEWEST:
        return None
    value, outcome = value[both], outcome[both]
    if _correlation(value, outcome) > SAME or _correlation(_ranks(value), _ranks(outcome)) > SAME:
        return f"{column}: possible leak, at each step it says what {name} is at that step"
    return None


def _same_order(values: Quantity, others: Array) -> bool:
    both = ~values.missing & ~np.isnan(others)
    if both.sum() < FEWEST:
        return False
    first, second = values.values[both], others[both]
    distinct = min(len(np.unique(first)), len(np.unique(second)))
    return distinct > both.sum() / 2 and _correlation(_ranks(first), _ranks(second)) > SAME


def _distinct(codes: Array) -> int:
    """How many different ones there are; of a million, sorted in a tenth of the time that np.unique takes."""
    ordered = np.sort(codes)
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _codes(column: Column) -> Array:
    return column.codes if isinstance(column, Category) else np.unique(column.keys(), return_inverse=True)[1]


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _correlation(first: Array, second: Array) -> float:
    """The size of Pearson's correlation; 0 for a constant, nan for numbers too large to square."""
    first, second = first - first.mean(dtype=np.float64), second - second.mean(dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.sqrt((first**2).sum() * (second**2).sum())
        return float(abs((first * second).sum()) / scale) if scale > 0 else 0.0

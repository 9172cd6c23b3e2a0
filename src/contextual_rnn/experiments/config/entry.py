"""What a task is to the rest of this package: its options, what it trains, and how its runs are compared and shown."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from contextual_rnn.experiments.config.option_type import OptionType, option_type, option_types
from contextual_rnn.experiments.config.options import TrainingConfig, check_options

DRAWINGS = Path(__file__).parents[1] / "report" / "drawings"

Scale = Literal["linear", "log", "share", "negative"]
# Of the metrics of every epoch, and the final ones, of a run that converged.
Value = Callable[[Sequence[Mapping[str, float]], Mapping[str, float]], float]


@dataclass(frozen=True)
class _Part:
    """Of an entry: its texts, flags and names of scales are checked."""

    def __post_init__(self) -> None:
        for name, of_name in _types(type(self)).items():
            of_name.checked(name, getattr(self, name))


@dataclass(frozen=True)
class Metric(_Part):
    """A number that a task's `evaluate` returns, and how tables and learning curves show it.

    `scale` is that of its axis: share for fractions, shown as per cent; negative for numbers below zero, of which the
    one before training may be far from the rest. `axis` names the axis, by default by the metric's name.
    """

    name: str
    label: str
    scale: Scale = "linear"
    axis: str = ""
    curve: bool = True


@dataclass(frozen=True)
class Measure(_Part):
    """A number by which the runs that converged are compared; `share` says that it is a fraction."""

    name: str
    of: Value
    more_is_better: bool = False
    share: bool = False


@dataclass(frozen=True)
class TaskEntry:
    """A task: its options, what it trains, and how its runs are compared and shown.

    `task` makes the `training.task.Task` of a configuration; as text, "module:name", it is imported once a run is
    trained. Every run that converged must have the first of `metrics`. `columns` are options with a column of their own
    in the table of final figures, `titles` texts for values of an option, which name and order groups of runs.
    `trajectories` says that its models are those of the decay task, which generate curves. The report shows `text`,
    `drawings` (files of report/drawings, each with its caption), and `curves`, the caption of the learning curves.
    """

    name: str
    config: type[TrainingConfig]
    task: Callable[[Any], Any] | str
    title: str
    metrics: tuple[Metric, ...]
    measures: tuple[Measure, ...] = ()
    columns: tuple[str, ...] = ("state",)
    titles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trajectories: bool = False
    text: str = ""
    drawings: tuple[tuple[str, str], ...] = ()
    curves: str = ""


def final(metric: str) -> Value:
    """A metric after the last epoch."""
    return lambda lines, last: last.get(metric, math.nan)


def epochs_to(threshold: float, metric: str) -> Value:
    """The first epoch after which a metric is at least `threshold`; infinite where it never is."""
    return lambda lines, last: next((e["epoch"] for e in lines if e.get(metric, -math.inf) >= threshold), math.inf)


@functools.cache
def _types(kind: type) -> dict[str, OptionType]:
    hints = get_type_hints(kind)
    return {name: option_type(name, annotation) for name, annotation in hints.items() if annotation != Value}


def check_parts(entry: TaskEntry) -> None:
    """Refuse parts of an entry of another kind than they are described as."""
    kind = entry.config
    own = isinstance(kind, type) and issubclass(kind, TrainingConfig)
    if not own or "__dataclass_fields__" not in vars(kind) or not dataclasses.fields(kind):
        raise TypeError(f"config: expected a frozen dataclass that is a TrainingConfig for {entry.name}, got {kind!r}")
    check_options(kind)
    if not callable(entry.task) and not (isinstance(entry.task, str) and ":" in entry.task):
        raise TypeError(f"task: expected a class, a function or 'module:name' for {entry.name}, got {entry.task!r}")
    for name, values, each in (("metrics", entry.metrics, Metric), ("measures", entry.measures, Measure)):
        if not isinstance(values, tuple | list) or not all(isinstance(value, each) for value in values):
            raise TypeError(f"{name}: expected a tuple of {each.__name__} for {entry.name}, got {values!r}")
        if len({value.name for value in values}) < len(values):
            raise ValueError(f"{name}: expected every name once for {entry.name}, got {[each.name for each in values]}")
    for measure in entry.measures:
        if not callable(measure.of):
            raise TypeError(f"measures: expected a function for {measure.name} of {entry.name}, got {measure.of!r}")
    for name in ("title", "text", "curves"):
        option_type(name, str).checked(name, getattr(entry, name))
    option_type("trajectories", bool).checked("trajectories", entry.trajectories)
    _check_shown(entry)


def _check_shown(entry: TaskEntry) -> None:
    """Refuse columns, titles and drawings of options and files that there are not."""
    options, columns, drawings = option_types(entry.config), entry.columns, entry.drawings
    if not isinstance(columns, tuple | list) or not all(name in options for name in columns):
        raise ValueError(f"columns: expected a tuple of options of {entry.name}, got {columns!r}")
    if not isinstance(entry.titles, Mapping) or not all(
        name in options and isinstance(texts, Mapping) and all(isinstance(text, str) for text in texts.values())
        for name, texts in entry.titles.items()
    ):
        raise ValueError(f"titles: expected texts for values of options of {entry.name}, got {entry.titles!r}")
    for drawing in drawings if isinstance(drawings, tuple | list) else (drawings,):
        pair = isinstance(drawing, tuple | list) and [type(each) for each in drawing] == [str, str]
        if not pair or not (DRAWINGS / drawing[0]).is_file():
            raise ValueError(f"drawings: expected files of {DRAWINGS}, each with a caption, got {drawing!r}")

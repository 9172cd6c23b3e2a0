"""A panel split, cut into examples, and encoded by what its training rows say."""

from __future__ import annotations

from typing import Any

import numpy as np

from contextual_rnn._numbers import check_size
from contextual_rnn.experiments.panels.arrow import Array, counted
from contextual_rnn.experiments.panels.data import PanelData
from contextual_rnn.experiments.panels.encoding import MOST_CATEGORIES, Coding, Encoding
from contextual_rnn.experiments.panels.panel import Panel, read_panel
from contextual_rnn.experiments.panels.split import PARTS, Examples, Split, cut, parts_of_units, split_of
from contextual_rnn.experiments.panels.values import Category, Column, Quantity


def prepare(panel: Panel, split: Split | None = None, length: int | None = None) -> PanelData:
    """Split a panel, cut it into examples of `length` steps, by default whole series, and fit codings on training rows.

    Each example has a whole window before its start; neither crosses a split or a gap that was not filled. Examples
    without a known target are left out, and counted with the others in `summary`. Raises ValueError for a split that
    leaves a part without an example, by time for a target a series, and by a group that the panel does not have,
    TypeError for other types.
    """
    if not isinstance(panel, Panel):
        raise TypeError(f"panel: expected a Panel that read_panel returns, got {type(panel).__name__}")
    split = split_of(split)
    if length is not None:
        length = check_size("length", length)
    bounds, sequence, part = _runs(panel, split)
    run, examples = _examples(panel, bounds, sequence, length)
    part = part[run]
    known = ~panel.target.missing
    used = _has_target(panel, examples, known)
    parts = {name: examples[used & (part == number)] for number, name in enumerate(PARTS)}
    _check_parts(panel, split, parts)
    encoding = _fit(panel, parts["train"], length)
    new = known & ~_has_class(panel, encoding)
    lacking = used & ~_has_target(panel, examples, known & ~new)
    parts = {name: examples[used & ~lacking & (part == number)] for number, name in enumerate(PARTS)}
    _check_parts(panel, split, parts)
    reasons = {"no known target": ~used, "a class that training lacks": lacking}
    counts = _rows_by_reason(panel, examples, reasons)
    summary = _summary(panel, counts)
    summary["split"] = split.by
    summary["warnings"] += _new_gaps(panel, encoding)
    if panel.target_per == "step" and new.any():
        what = f"{int(new.sum())} steps of validation and test have a class that training lacks, and do not count"
        summary["warnings"].append(f"{panel.columns.target}: {what}")
    summary["examples"] = {name: len(selected) for name, selected in parts.items()}
    summary["series by part"] = {name: len(np.unique(selected.series)) for name, selected in parts.items()}
    return PanelData(panel, encoding, **parts, summary=summary)


def prepare_new(table: Any, encoding: Encoding) -> PanelData:
    """A new table as a trained model takes it: every example stands in `test`, with or without a known target.

    Raises as `read_panel`, but not for a target that is missing.
    """
    if not isinstance(encoding, Encoding):
        raise TypeError(f"encoding: expected an Encoding, got {type(encoding).__name__}")
    panel = read_panel(table, encoding.columns, encoding)
    offsets = panel.steps.offsets
    _, examples = _examples(panel, np.stack([offsets[:-1], offsets[1:]], 1), panel.steps.series, encoding.length)
    summary = _summary(panel, _rows_by_reason(panel, examples, {}))
    summary["warnings"] += [*_unseen(panel, encoding), *_new_gaps(panel, encoding)]
    summary["examples"] = {"train": 0, "validation": 0, "test": len(examples)}
    none = examples[np.zeros(len(examples), bool)]
    return PanelData(panel, encoding, none, none, examples, summary)


def _examples(panel: Panel, bounds: Array, sequence: Array, length: int | None) -> tuple[Array, Examples]:
    """The run and the examples of runs of steps, of which `sequence` is the sequence of each."""
    run, first, size = cut(bounds, panel.columns.window, length)
    series = panel.series[sequence[run]]
    return run, Examples(series, panel.group[series], sequence[run], first, size)


def _runs(panel: Panel, split: Split) -> tuple[Array, Array, Array]:
    """Runs of steps without a gap in one part: bounds (R, 2), their sequence, their part."""
    offsets, sequence = panel.steps.offsets, panel.steps.series
    if split.by != "time":
        return np.stack([offsets[:-1], offsets[1:]], 1), sequence, _part_of_series(panel, split)[panel.series[sequence]]
    if panel.target_per == "series":
        raise ValueError("by: expected 'series' or 'group' for a target of one value a series, got 'time'")
    of_step = _part_of_step(panel, split)
    first = np.union1d(offsets[:-1], np.flatnonzero(of_step[1:] != of_step[:-1]) + 1)
    bounds = np.stack([first, np.append(first[1:], offsets[-1])], 1)
    piece = np.searchsorted(offsets, first, side="right") - 1
    return bounds, sequence[piece], of_step[first]


def _part_of_step(panel: Panel, split: Split) -> Array:
    shares = split.fractions[0], split.fractions[0] + split.fractions[1]
    if split.calendar:
        time = panel.steps.time
        validation, test = np.quantile(time, shares)
        return (time >= validation).astype(np.int8) + (time >= test)
    lengths = np.bincount(panel.steps.series, np.diff(panel.steps.offsets), len(panel.series)).astype(np.int64)
    ends = np.repeat([np.round(share * lengths).astype(np.int64) for share in shares], lengths, axis=1)
    place = counted(lengths)
    return (place >= ends[0]).astype(np.int8) + (place >= ends[1])


def _part_of_series(panel: Panel, split: Split) -> Array:
    labels = None
    if split.by == "series":
        if panel.target_per == "series" and isinstance(panel.target, Category):
            labels = panel.target.codes
        return parts_of_units(len(panel.series_names), split, labels)
    if panel.columns.group is None or split.by not in ("group", panel.columns.group):
        column = panel.columns.group or "(none was read)"
        raise ValueError(f"by: expected 'series', 'time' or the group column {column}, got {split.by!r}")
    return parts_of_units(len(panel.group_names), split)[panel.group]


def _check_parts(panel: Panel, split: Split, parts: dict[str, Examples]) -> None:
    for name, selected in parts.items():
        if not len(selected):
            units = f"{len(panel.group_names)} groups" if split.by in ("group", panel.columns.group) else ""
            raise ValueError(
                f"split: expected examples in each part, got none for {name}: "
                f"{units or f'{len(panel.series_names)} series'} of at most {panel.summary['steps']['longest']} steps, "
                f"split by {split.by}, with a window of {panel.columns.window} steps before each start"
            )


def _has_class(panel: Panel, encoding: Encoding) -> Array:
    """Which targets are of a class that training has; quantities are."""
    if isinstance(panel.target, Quantity):
        return np.ones(len(panel.target), bool)
    assert isinstance(panel.target, Category)
    return encoding.target.places(panel.target.categories)[panel.target.codes] < len(encoding.target.categories)


def _has_target(panel: Panel, examples: Examples, known: Array) -> Array:
    if panel.target_per == "series":
        return known[examples.sequence]
    before = np.concatenate([[0], np.cumsum(known)])
    return before[examples.first + examples.length] > before[examples.first]


def _steps_of(panel: Panel, examples: Examples) -> Array:
    """Which steps are in one of the examples or their windows."""
    change = np.zeros(len(panel.steps.rows) + 1, np.int32)
    np.add.at(change, examples.first - panel.columns.window, 1)
    np.add.at(change, examples.first + examples.length, -1)
    return np.cumsum(change)[:-1] > 0


def _fit(panel: Panel, train: Examples, length: int | None) -> Encoding:
    rows, sequences = np.flatnonzero(_steps_of(panel, train)), np.unique(train.sequence)

    def fit(name: str, column: Column, rows: Array, most: int | None = None) -> Coding:
        return Coding.fit(name, column.take(rows), most)

    return Encoding(
        columns=panel.columns,
        inputs={name: fit(name, column, rows, MOST_CATEGORIES) for name, column in panel.inputs.items()},
        context={name: fit(name, column, sequences) for name, column in panel.context.items()},
        target=fit(panel.columns.target, panel.target, rows if panel.target_per == "step" else sequences),
        target_per=panel.target_per,
        length=length,
    )


def _rows_by_reason(panel: Panel, examples: Examples, reasons: dict[str, Array]) -> dict[str, int]:
    """How many rows of the table are in no example that is used, nor in its window, by reason."""
    unused = np.zeros(len(examples), bool)
    for absent in reasons.values():
        unused |= absent
    left_out = ~_steps_of(panel, examples[~unused])
    counts: dict[str, int] = {}
    for reason, absent in reasons.items():
        steps = left_out & _steps_of(panel, examples[absent])
        counts[reason] = _rows(panel, steps)
        left_out &= ~steps
    counts["too few steps for a window and a step after it"] = _rows(panel, left_out)
    return {reason: count for reason, count in counts.items() if count}


def _rows(panel: Panel, steps: Array) -> int:
    """How many rows of the table these steps are; several steps are one row where they are tokens."""
    rows = panel.steps.rows[steps]
    return len(np.unique(rows[rows >= 0]))


def _summary(panel: Panel, counts: dict[str, int]) -> dict[str, Any]:
    rows = panel.summary["rows"]
    left_out = {**rows["left out"], **counts}
    new = {"read": rows["read"], "used": rows["read"] - sum(left_out.values()), "left out": left_out}
    warnings = [f"rows left out because of {reason}: {count}" for reason, count in counts.items()]
    return {**panel.summary, "rows": new, "warnings": [*panel.summary["warnings"], *warnings]}


def _new_gaps(panel: Panel, encoding: Encoding) -> list[str]:
    """A sentence on each column with missing values of which training had none."""
    codings = encoding.inputs | encoding.context
    return [
        f"{name}: training has no missing values, {int(column.missing.sum())} elsewhere count as average or unknown"
        for name, column in {**panel.inputs, **panel.context}.items()
        if column.missing.any() and not codings[name].missing
    ]


def _unseen(panel: Panel, encoding: Encoding) -> list[str]:
    """A sentence on each column with categories that training had not."""
    warnings, codings = [], encoding.inputs | encoding.context
    for name, column in {**panel.inputs, **panel.context}.items():
        if isinstance(column, Quantity):
            continue
        coding = codings[name]
        unknown = coding.places(column.categories)[:-1] == len(coding.categories)
        new = [category for category, is_new in zip(column.categories, unknown, strict=True) if is_new]
        if new:
            warnings.append(f"{name}: {len(new)} categories were not in training, such as {new[0]!r}")
    return warnings

"""What was understood of a table, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contextual_rnn.experiments.panels.columns import Columns
from contextual_rnn.experiments.text_table import aligned


def understood(
    columns: Columns, summary: Mapping[str, Any], inputs: Sequence[str], window: Sequence[str], length: int | None
) -> str:
    """Lines on rows, series, time, every column, what the network sees, examples, and warnings."""
    facts = {
        "rows": rows_in_words(summary["rows"]),
        "series": _series(columns, summary),
        "time": _time(columns, summary),
        "target": _target(columns, summary),
        "each step sees": _inputs(columns, inputs),
        "context": ", ".join(columns.context) or "none",
        "window": _window(columns, window),
        "examples": _examples(summary, length),
    }
    lines = [f"{name:<16}{fact}" for name, fact in facts.items()]
    roles = {
        "target": {columns.target},
        "input": set(columns.inputs),
        "context": set(columns.context),
        "group": {columns.group},
    }
    rows = [_column(roles, name, column) for name, column in summary["columns"].items()]
    lines += ["", *aligned([("column", "is", "kind", "missing", "values"), *rows])]
    warnings = summary["warnings"]
    return "\n".join([*lines, "", *(f"warning: {warning}" for warning in warnings)] if warnings else lines)


def rows_in_words(rows: Mapping[str, Any]) -> str:
    """How many rows were read, used and left out, by reason."""
    reasons = [f"{count:,} left out: {reason}" for reason, count in rows["left out"].items()]
    return "; ".join([f"{rows['read']:,} read, {rows['used']:,} used", *reasons])


def _series(columns: Columns, summary: Mapping[str, Any]) -> str:
    steps = summary["steps"]
    by = columns.series or ("the whole table" if summary["series"] == 1 else "each row")
    parts = [f"{summary['series']:,} by {by}"]
    if summary["sequences"] != summary["series"]:
        parts.append(f"{summary['sequences']:,} sequences")
    if columns.group is not None:
        parts.append(f"{summary['groups']:,} groups by {columns.group}")
    return ", ".join([*parts, f"of {steps['shortest']:,} to {steps['longest']:,} steps, median {steps['median']:g}"])


def _time(columns: Columns, summary: Mapping[str, Any]) -> str:
    if columns.time is None:
        return summary["time"]["step"]
    filled, gaps = summary["steps"]["filled"], summary["time"]["long gaps"]
    return (
        f"{columns.time}, every {summary['time']['step']}; {filled:,} missing steps are filled as missing values, "
        f"{gaps:,} gaps of more than {columns.fill_gaps} begin a new piece"
    )


def _target(columns: Columns, summary: Mapping[str, Any]) -> str:
    target = summary["target"]
    if target["kind"] in ("bytes", "characters"):
        return f"{columns.target}: each row is a text of its own, {target['categories']} different {target['kind']}"
    what = "a number" if target["kind"] == "quantity" else f"one of {target['categories']} classes"
    return f"{columns.target}, {what} for each {target['per']}"


def _inputs(columns: Columns, inputs: Sequence[str]) -> str:
    if columns.kinds.get(columns.target) in ("bytes", "characters"):
        return f"the {columns.kinds[columns.target].removesuffix('s')} before"
    names = [f"{name} of the step before" if name == columns.target else name for name in columns.inputs]
    return f"{', '.join(names) or 'nothing but a constant'} ({_numbers(inputs)})"


def _window(columns: Columns, window: Sequence[str]) -> str:
    if not columns.window:
        return "none"
    return f"the {columns.window} steps before each start ({_numbers(window)} a step)"


def _numbers(names: Sequence[str]) -> str:
    return f"{len(names)} number{'s' * (len(names) != 1)}"


def _examples(summary: Mapping[str, Any], length: int | None) -> str:
    counts = ", ".join(f"{count:,} for {part}" for part, count in summary["examples"].items())
    of = "whole series" if length is None else f"at most {length} steps"
    split = f", split by {summary['split']}" if "split" in summary else ""
    return f"{counts}, of {of}{split}"


def _column(roles: Mapping[str, set[Any]], name: str, column: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    role = ", ".join(role for role, names in roles.items() if name in names)
    values = ""
    if "categories" in column:
        values = f"{column['categories']:,} different"
    elif "least" in column:
        values = f"{column['least']:.4g} to {column['most']:.4g}"
    return name, role, column["kind"], f"{column['missing']:,}", values

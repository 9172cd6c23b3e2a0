"""Intervals, names and values of options as text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from contextual_rnn.experiments.stats.intervals import Interval

Form = Literal["share", "error", "points", "epochs", "number"]


def interval(value: Interval | None, form: Form) -> str:
    """As "99.12% (98.80% to 99.31%)"; of a single seed "99.12% (one seed)".

    share: a fraction as per cent; error: what is missing to all of it, the same way; points: a difference of fractions
    in points; epochs: a count, or never; number: three digits. Without an interval "-".
    """
    if value is None:
        return "-"
    ends = (value.high, value.low) if form == "error" else (value.low, value.high)
    if math.isnan(value.low):
        return f"{_text(value.estimate, form)} (one seed)"
    return f"{_text(value.estimate, form)} ({_text(ends[0], form)} to {_text(ends[1], form)})"


def _text(value: float, form: Form) -> str:
    if math.isinf(value):
        return "never"
    return minus(
        {
            "share": f"{value:.2%}",
            "error": f"{1 - value:.2%}",
            "points": f"{100 * value:+.2f}",
            "epochs": f"{value:g}",
            "number": f"{value:.3g}",
        }[form]
    )


def minus(text: str) -> str:
    """With a minus for every hyphen before a number."""
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def words(name: str) -> str:
    """An option's name as words."""
    return name.replace("_", " ")


def spread(numbers: Iterable[int]) -> str:
    """As "3 to 10", or "3" where all are equal; empty of none."""
    counts = sorted(set(numbers))
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""


def option_text(value: object) -> str:
    """An option's value as the page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "default"
    return f"{value:,}" if isinstance(value, int) else str(value)

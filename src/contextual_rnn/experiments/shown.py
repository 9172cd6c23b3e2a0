"""Intervals as text."""

from __future__ import annotations

import math
from typing import Literal

from contextual_rnn.experiments.intervals import Interval

Form = Literal["share", "error", "points", "epochs", "number", "probability"]


def interval(found: Interval, form: Form) -> str:
    """As "99.12% (98.80% to 99.31%)"; of a single seed "99.12% (one seed)".

    share: a fraction as per cent; error: what is missing to all of it, the same way; points: a difference of fractions
    in points; epochs: a count, or never; number: three digits.
    """
    ends = (found.high, found.low) if form == "error" else (found.low, found.high)
    if math.isnan(found.low):
        return f"{_text(found.estimate, form)} (one seed)"
    return f"{_text(found.estimate, form)} ({_text(ends[0], form)} to {_text(ends[1], form)})"


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
            "probability": f"{value:.2f}",
        }[form]
    )


def minus(text: str) -> str:
    """With a minus for every hyphen before a number."""
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text

"""Intervals as text."""

from __future__ import annotations

import math
from typing import Literal

from contextual_rnn.experiments.stats.intervals import Interval

Form = Literal["share", "error", "points", "epochs", "number", "probability"]


def interval(value: Interval, form: Form) -> str:
    """As "99.12% (98.80% to 99.31%)"; of a single seed "99.12% (one seed)".

    share: a fraction as per cent; error: what is missing to all of it, the same way; points: a difference of fractions
    in points; epochs: a count, or never; number: three digits.
    """
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
            "probability": f"{value:.2f}",
        }[form]
    )


def minus(text: str) -> str:
    """With a minus for every hyphen before a number."""
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


STARTS = {"wenke2019": "The authors' own start", "sound": "A sound start"}

SHORT = {"wenke2019": "the authors' own", "sound": "sound"}


def words(name: str) -> str:
    """An option's name as words."""
    return name.replace("_", " ")


def option_text(value: object) -> str:
    """An option's value as the page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "default"
    return f"{value:,}" if isinstance(value, int) else str(value)


TASKS = {"retrieval": "Associative retrieval", "decay": "Linear cosine decay"}

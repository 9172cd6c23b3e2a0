"""Tables whose truth is known: the start of each series depends on its context, on its past, or on nothing."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy

from contextual_rnn._numbers import SHARE, check_number
from contextual_rnn.experiments.panels import Columns

Truth = Literal["context", "past", "nothing"]
TRUTHS: tuple[Truth, ...] = get_args(Truth)
WINDOW = 3
DECAY, DRIVE, PAST_NOISE = 0.85, 0.3, 0.3
COLUMNS = Columns("y", "series", "step", inputs=("x",), context=("z",), window=WINDOW)


def planted_table(truth: Truth, share: float, *, series: int, steps: int, seed: int) -> Any:
    """An Arrow table of `series` series: WINDOW steps of the past, then `steps` steps.

        h(0) = s v,   h(t + 1) = 0.85 h(t) + 0.3 x(t),   y(t) = h(t) + e(t),   s^2 = share / (1 - share)

    v is the context z, the level of y in the past, or a number that no column has; it, x and e are standard normal, and
    both z and the past are there whatever the truth. `share` is the share of the variance of y(0) that h(0) explains.
    Raises ValueError for another truth or a share outside 0 to 1.
    """
    import pyarrow

    if truth not in TRUTHS:
        raise ValueError(f"truth: expected one of {', '.join(TRUTHS)}, got {truth!r}")
    share = check_number("share", share, *SHARE)
    rng = numpy.random.default_rng(seed)
    context, level, hidden = rng.standard_normal((3, series))
    x = rng.standard_normal((series, WINDOW + steps))
    y = rng.standard_normal((series, WINDOW + steps))
    y[:, :WINDOW] = level[:, None] + PAST_NOISE * y[:, :WINDOW]
    h = {"context": context, "past": level, "nothing": hidden}[truth] * (share / (1 - share)) ** 0.5
    for step in range(WINDOW, WINDOW + steps):
        y[:, step] += h
        h = DECAY * h + DRIVE * x[:, step]
    return pyarrow.table(
        {
            "series": numpy.repeat(numpy.arange(series), WINDOW + steps),
            "step": numpy.tile(numpy.arange(WINDOW + steps), series),
            "x": x.ravel(),
            "z": numpy.repeat(context, WINDOW + steps),
            "y": y.ravel(),
        }
    )

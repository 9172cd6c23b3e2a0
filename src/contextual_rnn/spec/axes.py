"""The axes of a network's input."""

from __future__ import annotations

from typing import Literal

from contextual_rnn._numbers import check_size, shortened

TimeDim = int | None | Literal["unknown"]


def checked_axes(batch_dim: int, ndim: int | None, time_dim: TimeDim) -> dict[str, TimeDim]:
    """The axes as plain ints, by the names of their arguments."""
    batch_dim = check_size("input_batch_dim", batch_dim, 0)
    if ndim is not None:
        ndim = check_size("input_ndim", ndim)
        if batch_dim >= ndim:
            raise ValueError(f"input_batch_dim: expected less than input_ndim, {ndim}, got {batch_dim}")
    if time_dim is not None and time_dim != "unknown":
        time_dim = _checked_time_dim(time_dim, batch_dim, ndim)
    return {"input_batch_dim": batch_dim, "input_ndim": ndim, "time_dim": time_dim}


def _checked_time_dim(time_dim: int, batch_dim: int, ndim: int | None) -> int:
    try:
        checked = check_size("time_dim", time_dim, 0)
    except TypeError:
        raise TypeError(f'time_dim: expected an int, None or "unknown", got {shortened(time_dim)}') from None
    except ValueError:
        checked = batch_dim  # no axis that it can be
    if checked == batch_dim or (ndim is not None and checked >= ndim):
        axes = "an axis" if ndim is None else f"one of {ndim} axes"
        raise ValueError(
            f"time_dim: expected {axes}, counted from 0, other than the batch's {batch_dim}, got {shortened(time_dim)}"
        )
    return checked

"""Contexts for the rows that begin anew, checked."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor


class Numbers(NamedTuple):
    """Which of the contexts a reset has, in the order of the flags; `places` is (B, T) or, for all steps, (B, 1)."""

    places: Tensor
    total: int

    @classmethod
    def of(cls, reset: Tensor, time_dim: object, batch_dim: int) -> Numbers:
        """Of flags in the layout of the input, or (B,) before a call."""
        number = reset.cpu().flatten().cumsum(0)
        places = (number - 1).view(reset.shape)
        if reset.ndim == 1:
            places = places[:, None]
        elif isinstance(time_dim, int) and time_dim < batch_dim:
            places = places.T
        return cls(places, int(number[-1]) if len(number) else 0)

    def steps(self, start: int, stop: int) -> Numbers:
        """Those of the piece from step `start` to before `stop`."""
        return self if self.places.shape[1] == 1 else self._replace(places=self.places[:, start:stop])

    def at(self, rows: Tensor, steps: Tensor) -> Tensor:
        """Those of some steps, one of each row given."""
        return self.places[rows, steps if self.places.shape[1] > 1 else 0]


def check_contexts(name: str, context: Any, count: int) -> None:
    """Refuse contexts where `count`, how many flags are True, is 0: then no state is made that would refuse them.

    Of other structures than a tensor nobody here knows how many contexts they hold.
    """
    if not count and isinstance(context, Tensor) and context.ndim and len(context):
        raise ValueError(f"{name}: expected a context for each of 0 True of reset, got {len(context)}")


@contextmanager
def naming(name: str, context: Any, count: int) -> Generator[None]:
    """Have a ValueError that refuses `context`, the argument `name` for `count` True flags, say so."""
    try:
        yield
    except ValueError as error:
        if context is None:
            raise
        raise ValueError(f"{name}: expected a context for each of {count} True of reset: {error}") from error

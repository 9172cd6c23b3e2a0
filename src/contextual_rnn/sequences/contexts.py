"""Contexts for the rows that begin anew, checked."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


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

"""One step a call of a recurrence whose state stays in memory: what every native kernel of streams provides."""

from __future__ import annotations

from typing import Any, NamedTuple


class Steps(NamedTuple):
    """A recurrence with its weights, which are read here once, and the memory of its state.

    `run(problem, input, anew)` takes one step. `input` is the address of contiguous rows; `anew` that of a bool for
    each row, which says whether it begins from the start in memory, or 0. `memory` is what the addresses in `problem`
    are of.
    """

    run: Any
    problem: int
    memory: tuple[Any, ...]

"""Time contenders in turn, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Seconds of one contender at a stretch. In a virtual machine threads that slept can take 8 ms to wake: they must not be
# put to sleep more often than in training.
BLOCK = 0.2
LEAST, MOST = 5, 200  # rounds

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Contender:
    """`run(n)` does n steps, where n is a multiple of `multiple`."""

    run: Callable[[int], object]
    multiple: int = 1


def repeated(call: Callable[[], object], after: Callable[[], object] = lambda: None) -> Contender:
    """`call` as a contender; `after` ends a stretch, where a device has to be waited for."""

    def run(steps: int) -> None:
        for _ in range(steps):
            call()
        after()

    return Contender(run)


def interleave(
    contenders: Mapping[str, Contender],
    seconds: float,
    least: int = LEAST,
    block: float = BLOCK,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Seconds a step of every contender, one figure a round; rounds go on for about `seconds`, and are `least` or more.

    Each runs for about `block` seconds at a stretch, as in training, where a step finds in the caches what one of its
    own kind left. Before the first round every contender runs once, which compiles and allocates.
    """
    blocks, round_seconds = {}, 0.0
    for name, contender in contenders.items():
        contender.run(contender.multiple)
        each = _time(contender, contender.multiple, clock)
        blocks[name] = contender.multiple * max(1, round(block / (each * contender.multiple)))
        round_seconds += each * blocks[name]
    return in_turns(contenders, blocks, min(MOST, max(least, round(seconds / round_seconds))), clock)


def in_turns(
    contenders: Mapping[str, Contender], steps: Mapping[str, int], rounds: int, clock: Callable[[], float]
) -> Seconds:
    """Seconds a step of every contender, one figure a round; each takes its number of `steps` at a stretch."""
    taken: Seconds = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            taken[name].append(_time(contenders[name], steps[name], clock))
    return taken


def _time(contender: Contender, steps: int, clock: Callable[[], float]) -> float:
    start = clock()
    contender.run(steps)
    return (clock() - start) / steps


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as long the first takes: median over the rounds, each of which saw the same machine."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and minimum, in microseconds."""
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if seconds[1:] else seconds * 3
    figures = {"median": median, "lower quartile": lower, "upper quartile": upper, "minimum": min(seconds)}
    return {name: figure * 1e6 for name, figure in figures.items()} | {"rounds": len(seconds)}

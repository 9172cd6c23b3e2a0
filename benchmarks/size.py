"""What is timed, at which size, by whom, and the results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.timing import Seconds, ratio, spread

What = Literal["training step", "recurrence"]

# The contenders' names. Ours is timed three times where a whole step is: as `train` runs it, and as a user writes it,
# with `sequence_cross_entropy` for a loss or module by module; the recurrence also without autograd. On a GPU `train`
# captures a step as a graph, and the explicit A is timed so too.
TRAIN, FUSED, PLAIN, OURS = "ours, as train runs it", "ours, plain PyTorch, fused loss", "ours, plain PyTorch", "ours"
BARE = "ours, without autograd"
PROJECTING, APART = "ours, with a projection", "its products by torch, ours over what is projected"
EAGER, COMPILED, JAX = "eager, explicit A", "torch.compile", "JAX"
CAPTURED = "explicit A, captured as a graph"


@dataclass(frozen=True)
class Size:
    """Of one problem; `initial` is what the initial state sets: "zero", "dense" or "low rank"."""

    batch: int = 128
    steps: int = 11
    units: int = 50
    threads: int = 1
    initial: str = "zero"
    device: str = "cpu"


@dataclass(frozen=True)
class Cell:
    """Seconds a step at one size, by contender and round."""

    what: What
    size: Size
    seconds: Seconds

    def ratio(self, slow: str, fast: str) -> float | None:
        """How many times as long the first contender takes; None where one of them was not timed."""
        if slow not in self.seconds or fast not in self.seconds:
            return None
        return ratio(self.seconds[slow], self.seconds[fast])

    def summary(self) -> dict[str, Any]:
        ours = next(iter(self.seconds))
        return {
            "what": self.what,
            **asdict(self.size),
            "microseconds": {name: spread(seconds) for name, seconds in self.seconds.items()},
            f"times as long as {ours}": {name: self.ratio(name, ours) for name in self.seconds},
        }

"""Time the backends of the fast-weights recurrence beside the stored A, in one run, after they were seen to agree.

    make bench            the retrieval task's size: B=128, T=11, H=50, one thread, forward and backward

Prints medians of interleaved rounds in microseconds and their ratio to `reference`, which stores A as public
implementations do. Only the ratios carry over to another machine.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
import tyro
from torch import Tensor

from contextual_rnn.ops import BACKENDS, LowRank, Timing, fast_weights

INITIAL = ("zero", "shared", "dense", "low rank")


@dataclass(frozen=True)
class Benchmark:
    """Time the backends of the fast-weights recurrence beside the stored A."""

    batch: int = 128
    steps: int = 11
    units: int = 50
    rank: int = 4
    rounds: int = 60
    """Timed calls of each backend, in turn."""
    threads: int = 1


def problem(size: Benchmark, initial: str, dtype: torch.dtype) -> tuple[list[Tensor], Callable[[str, Timing], Tensor]]:
    """Random tensors, and a function that runs a backend on them and returns the sum of outputs times a cotangent."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    b, t, h = size.batch, size.steps, size.units
    inputs, weight, h0, gain, shift = draw(b, t, h), draw(h, h, scale=h**-0.5), draw(b, h), draw(h), draw(h)
    tensors, a0 = [inputs, weight, h0, gain, shift], None
    if initial == "low rank":
        a0 = LowRank(draw(b, size.rank, h, scale=h**-0.5), draw(b, size.rank, h, scale=h**-0.5))
        tensors += a0
    elif initial != "zero":
        matrix = draw(*(() if initial == "shared" else (b,)), h, h, scale=h**-0.5)
        a0 = matrix.expand(b, h, h)
        tensors.append(matrix)
    cotangent = draw(b, t, h).detach()

    def run(backend: str, timing: Timing) -> Tensor:
        output, _ = fast_weights(
            inputs, weight, h0, a0, norm_weight=gain, norm_bias=shift, timing=timing, backend=backend
        )
        return (output * cotangent).sum()

    return tensors, run


def check(size: Benchmark, initial: str) -> None:
    """No figure without this: values and every gradient in float64 agree to 1e-9."""
    tensors, run = problem(size, initial, torch.float64)
    for timing in get_args(Timing):
        expected = torch.autograd.grad(run("reference", timing), tensors)
        for backend in BACKENDS.keys() - {"reference"}:
            for found, wanted in zip(torch.autograd.grad(run(backend, timing), tensors), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


def measure(size: Benchmark, initial: str) -> dict[str, float]:
    """Median microseconds of forward and backward, by backend, rounds interleaved."""
    tensors, run = problem(size, initial, torch.float32)
    seconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for _ in range(size.rounds + 5):
        for backend, taken in seconds.items():
            start = time.perf_counter()
            torch.autograd.grad(run(backend, "wenke2019"), tensors)
            taken.append(time.perf_counter() - start)
    return {backend: statistics.median(taken[5:]) * 1e6 for backend, taken in seconds.items()}


def main() -> None:
    size = tyro.cli(Benchmark)
    torch.set_num_threads(size.threads)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {size}")
    for initial in INITIAL:
        check(size, initial)
    print(f"{'A(0)':>9}" + "".join(f"{backend:>22}" for backend in BACKENDS))
    for initial in INITIAL:
        medians = measure(size, initial)
        cells = (f"{us:>10.0f} us {medians['reference'] / us:6.1f} x" for us in medians.values())
        print(f"{initial:>9}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()

"""Time fast weights on a GPU beside the explicit A on the same one, after all were seen to compute the same.

    python -m benchmarks.gpu            a minute or two on an idle GPU

Of a whole training step, as `train` runs it and as a user writes it; of the recurrence alone, whose share of the
device's peaks is stated: of the bandwidth by the bytes that have to move whatever the algorithm (inputs, outputs and
the gradients of both once), of the arithmetic by its multiply-adds; and of a long sequence. The device's peaks are
measured too, by a copy and by a product of matrices in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from benchmarks import machine
from benchmarks.parts import Figure
from benchmarks.recurrence import Problem, check_backends, check_long, multiply_adds
from benchmarks.size import CAPTURED, EAGER, OURS, PLAIN, TRAIN, Cell, Size
from benchmarks.timing import interleave, repeated
from benchmarks.training_step import training_step
from contextual_rnn.experiments.runs.folder import write_json
from contextual_rnn.experiments.training.cuda_graph import capture

BATCHES = (128, 8192)
LONG = Size(batch=32, steps=2048, units=64, device="cuda")
KERNEL, COPY, PRODUCT = "the kernel's two launches", "copy", "product of matrices"
COPIED, MM_SIZE = 2**28, 8192  # elements, rows: a gigabyte, and a trillion operations


@dataclass(frozen=True)
class Benchmark:
    """Time fast weights on a GPU beside the explicit A, after all were seen to compute the same."""

    batches: tuple[int, ...] = BATCHES
    """Batch sizes."""
    seconds: float = 8.0
    """Time for the rounds of each."""
    long: bool = True
    """Time a long sequence too."""
    out: Path = Path("results/benchmarks")
    """Folder for gpu.json."""


def run(options: Benchmark) -> None:
    """Check, measure, print and write gpu.json, anew with every figure: a machine that is lent may be taken back."""
    report = {
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "machine": machine.describe() | {"gpu": torch.cuda.get_device_name()},
        "gate": check_backends(Size(batch=33, device="cuda")),
        "figures": [],
        "measured": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for result in _results(options):
        report["figures" if isinstance(result, Figure) else "measured"].append(result.summary())
        if isinstance(result, Figure):
            print(result.line(), flush=True)
        write_json(options.out / "gpu.json", report)


def _results(options: Benchmark) -> Iterator[Cell | Figure]:
    for batch in options.batches:
        size = Size(batch=batch, device="cuda")
        yield (step := training_step(size, [TRAIN, PLAIN, EAGER, CAPTURED], options.seconds))
        for ours, peer, target in ((TRAIN, EAGER, 10.0), (PLAIN, EAGER, 10.0), (TRAIN, CAPTURED, 1.0)):
            yield Figure(f"training step, B={batch}: {peer} / {ours}", step.ratio(peer, ours), "at least", target)
        yield (alone := _recurrence(size, options.seconds / 4))
        yield from _shares(alone)
    if options.long:
        check_long(replace(LONG, batch=2))
        yield (cell := _long())
        name = f"recurrence, T={LONG.steps} H={LONG.units} B={LONG.batch}: {EAGER} / {OURS}"
        yield Figure(name, cell.ratio(EAGER, OURS), "at least", 5.0)
        yield _memory()


def _recurrence(size: Size, seconds: float) -> Cell:
    """Forward and backward without the host, beside what the device can copy and multiply at most."""
    bare = Problem(size, torch.float32).bare()
    whole = torch.empty(COPIED, device="cuda")
    a, b = (torch.randn(MM_SIZE, MM_SIZE, device="cuda") for _ in range(2))
    contenders = {
        KERNEL: repeated(capture(bare, bare).replay, torch.cuda.synchronize),
        COPY: repeated(whole.clone, torch.cuda.synchronize),
        PRODUCT: repeated(lambda: a @ b, torch.cuda.synchronize),
    }
    return Cell("recurrence", size, interleave(contenders, seconds))


def _shares(cell: Cell) -> list[Figure]:
    """What the recurrence has to move and to multiply at the device's own peaks, over the time that it takes."""
    size = cell.size
    moved = 4 * size.batch * size.steps * size.units * torch.float32.itemsize
    copied, multiplied = 2 * COPIED * torch.float32.itemsize, MM_SIZE**3
    figures = []
    for what, peer, share, note in (
        ("bandwidth", COPY, moved / copied, f"{moved:,} bytes"),
        ("arithmetic in float32", PRODUCT, multiply_adds(size) / multiplied, f"{multiply_adds(size):,} multiply-adds"),
    ):
        ratio = cell.ratio(peer, KERNEL)
        assert ratio is not None
        figures.append(Figure(f"recurrence, B={size.batch}: share of peak {what}", share * ratio, note=note))
    return figures


def _long() -> Cell:
    """A few rounds: the explicit A takes seconds."""
    problem = Problem(LONG, torch.float32)
    calls = {OURS: problem.gradients, EAGER: lambda: problem.gradients("reference")}
    contenders = {name: repeated(call, torch.cuda.synchronize) for name, call in calls.items()}
    return Cell("recurrence", LONG, interleave(contenders, seconds=0, least=3))


def _memory() -> Figure:
    """What a call takes of the device's memory at most, beyond its tensors."""
    problem, taken = Problem(LONG, torch.float32), []
    for backend in ("auto", "reference"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        problem.gradients(backend)
        taken.append(torch.cuda.max_memory_allocated() - before)
    name = f"peak extra memory, T={LONG.steps} H={LONG.units} B={LONG.batch}: {OURS} / {EAGER}"
    note = ", ".join(f"{size / 2**20:.0f} MiB" for size in taken)
    return Figure(name, taken[0] / taken[1], "at most", 1 / 20, note)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("a GPU that torch can use is needed, and there is none")
    run(tyro.cli(Benchmark))

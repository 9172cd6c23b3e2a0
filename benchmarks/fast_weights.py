"""Time fast weights beside their peers, in one run, after all were seen to compute the same.

    make bench                                          everything, about ten minutes on two idle cores
    python -m benchmarks.fast_weights --only step       one part: step, initial, floor, long or grid
    python -m benchmarks.fast_weights --quick           the smallest sizes, some seconds

The peers are (i) the stored A in eager PyTorch, (ii) torch.compile and (iii) XLA of the attention form. Prints and
writes medians and ratios; only the ratios carry over to another machine.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from benchmarks import machine, parts, plots
from benchmarks.parts import Figure, Refused
from benchmarks.recurrence import check_operations, has_jax
from benchmarks.size import COMPILED, JAX, Cell, Size
from benchmarks.training_step import CHECKED, TRAINERS, check
from benchmarks.workers import Workers
from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.runs.folder import write_json

Part = Literal["step", "initial", "floor", "long", "grid"]


@dataclass(frozen=True)
class Benchmark:
    """Time fast weights beside their peers, after all were seen to compute the same."""

    only: tuple[Part, ...] = get_args(Part)
    """The parts to run: step and initial (a training step, from a zero and from another A(0)), floor (the recurrence
    beside its multiply-adds), long (long sequences, wide states, threads), grid (over B, T, H and threads)."""
    quick: bool = False
    """The smallest sizes, a few rounds, in this process: to see that it works, not to quote."""
    seconds: float = parts.FULL.seconds
    """Time for the rounds of a named figure; a point of the grid gets a quarter."""
    jax: bool = True
    """Time JAX, where it is installed."""
    compile: bool = True
    """Time torch.compile, which takes most of a minute to compile a step."""
    out: Path = Path("results/benchmarks")
    """Folder for benchmarks.json and the plots."""


def run(options: Benchmark) -> dict[str, Any]:
    """Check, measure, print and write; returns what is written to benchmarks.json."""
    peers = parts.Peers(_left_out(options))
    plan = parts.QUICK if options.quick else replace(parts.FULL, seconds=options.seconds)
    if options.quick:
        print("quick: sizes far below those that the targets are for")
    with Workers(here=options.quick) as workers:
        report = {
            "command": " ".join(["python -m benchmarks.fast_weights", *sys.argv[1:]]),
            "machine": machine.describe(),
            "quick": options.quick,
            "not timed": peers.left_out,
            "gate": workers.run(1, _gate, plan.gate, JAX not in peers.left_out),
            "peak": workers.run(1, machine.check_peak),
        }
        print(json.dumps(report, indent=2))
        cells: list[Cell] = []
        figures: list[Figure] = []
        refused: list[Refused] = []
        try:
            for result in _run_parts(options.only, plan, peers, workers):
                lists: dict[type, list[Any]] = {Cell: cells, Figure: figures, Refused: refused}
                lists[type(result)].append(result)
                print(_row(result) if isinstance(result, Cell) else result.line(), flush=True)
        finally:  # what was measured before something went wrong is kept
            print("\n" + "\n".join(figure.line() for figure in figures))
            report |= {
                "figures": [figure.summary() for figure in figures],
                "measured": [cell.summary() for cell in cells],
                "refused": [asdict(cell) for cell in refused],
            }
            _write(report, cells, options.out)
    return report


def _write(report: dict[str, Any], cells: list[Cell], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "benchmarks.json", report)
    for name, figure in plots.draw(cells).items():
        picture = io.BytesIO()
        figure.savefig(picture, format="svg")
        write_whole(folder / f"{name}.svg", picture.getvalue())


def _left_out(options: Benchmark) -> dict[str, str]:
    reasons = {}
    if not options.jax:
        reasons[JAX] = "not asked for"
    elif not has_jax():
        reasons[JAX] = "not installed: pip install 'contextual-rnn[bench]'"
    if not options.compile:
        reasons[COMPILED] = "not asked for"
    elif not machine.compiler():
        reasons[COMPILED] = "needs a C++ compiler"
    return reasons


def _gate(size: Size, jax: bool) -> list[str]:
    """What agrees, before any time is taken; every cell checks its own contenders at its own size besides."""
    compared = check_operations(size, jax)
    for initial in ("zero", "dense", "low rank"):
        left_out = {COMPILED} if jax and initial != "low rank" else {COMPILED, JAX}
        size = replace(size, initial=initial)
        names = [name for name in TRAINERS if name not in left_out]
        check(size, {name: TRAINERS[name](size) for name in names})
        compared += [f"{name}: loss, gradients, {CHECKED} steps of training, A(0) {initial}" for name in names]
    return compared


def _run_parts(names: tuple[Part, ...], plan: parts.Plan, peers: parts.Peers, workers: Workers) -> parts.Results:
    for name in names:
        print(f"\n{name}")
        yield from parts.PARTS[name](plan, peers, workers)


def _row(cell: Cell) -> str:
    size, summary = cell.size, cell.summary()
    head = f"{cell.what}, B={size.batch} T={size.steps} H={size.units}, A(0) {size.initial}, {size.threads} thread(s)"
    first = next(iter(cell.seconds))
    rows = [
        f"    {name:<32}{spread['median']:>12.0f} us  [{spread['lower quartile']:.0f}, {spread['upper quartile']:.0f}]"
        f"{cell.ratio(name, first):>10.2f} x"
        for name, spread in summary["microseconds"].items()
    ]
    return "\n".join([head, *rows])


if __name__ == "__main__":
    sys.exit(1 if run(tyro.cli(Benchmark))["refused"] else 0)

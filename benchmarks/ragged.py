"""Time training steps on sequences of different lengths, and with resets, against dense ones of torch.

    python -m benchmarks.ragged            a few minutes on an idle core
    python -m benchmarks.ragged --quick    a few rounds, to see that it works

A step is zero_grad, forward from a learned state, backward from a random cotangent; 8 input features, which need no
gradient. Times are for each real step, of which torch's dense batch has all. Lengths are spread evenly from T/2 to T.
The peers are torch itself on a dense batch and on a packed one, a loop over cells that goes back to the state where it
is reset, that loop under `torch.compile`, and a scan in JAX. They take turns, each for some steps at a time, as in
training; the time is the processor's where there is one thread.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import tyro
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks import machine
from benchmarks.parts import Figure, conclude
from benchmarks.recurrence import has_jax
from benchmarks.timing import Seconds, interleave, ratio, repeated, spread
from benchmarks.workers import Workers
from contextual_rnn import ContextualRNN, FreeState
from contextual_rnn.ops._gated import cpu

FEATURES = 8
KINDS = {"LSTM": (nn.LSTM, nn.LSTMCell, 0.8), "GRU": (nn.GRU, nn.GRUCell, 0.5)}  # and how much of dense is the target
SIZES = ((64, 128, 64), (16, 32, 64), (32, 64, 128), (256, 25, 128))
DENSE, PACKED, LOOP, COMPILED, SCAN = (
    "torch, dense",
    "torch, packed",
    "loop over cells, 2 % resets",
    "the loop, torch.compile",
    "JAX, scan, 2 % resets",
)
WHOLE, LENGTHS, FEW, MANY = "native, dense", "lengths", "2 % resets", "10 % resets"
OURS = (WHOLE, LENGTHS, FEW, MANY)
GAIN_OF_TWO_THREADS = 1.7
EVERY, LAST = "loss at all steps", "loss at the last step"
FADING = (16, 1024, 64)  # gradients of the last step are subnormal numbers at the first ones
STRETCH = 0.03  # seconds of one way at a time
LONGEST_COMPILED = 32  # torch.compile unrolls the loop


@dataclass(frozen=True)
class Benchmark:
    """Time sequences of different lengths, and with resets."""

    rounds: int = 25
    compile: bool = True
    """Compile the loop over cells, where that takes less than a minute."""
    quick: bool = False
    """A few rounds in this process: to see that it works, not to quote."""
    out: Path = Path("results/benchmarks")
    """Folder for ragged.json."""


@dataclass(frozen=True)
class Batch:
    x: Tensor
    lengths: Tensor
    resets: dict[str, Tensor]
    cotangent: Tensor

    @classmethod
    def of(cls, batch: int, steps: int, units: int, dtype: torch.dtype = torch.float32) -> Batch:
        x, cotangent = (torch.randn(batch, steps, size, dtype=dtype) for size in (FEATURES, units))
        lengths = torch.linspace(steps // 2, steps, batch).round().long()[torch.randperm(batch)]
        chance = torch.rand(batch, steps)
        return cls(x, lengths, {FEW: chance < 0.02, MANY: chance < 0.1}, cotangent)

    @property
    def real(self) -> float:
        """The share of the steps that lengths leave."""
        return float(self.lengths.sum()) / self.x.shape[:2].numel()


def build(kind: str, units: int, dtype: torch.dtype = torch.float32, **options: Any) -> dict[str, ContextualRNN]:
    """The same network and random state, run by torch wherever it can be, by us in a plain call too, and as it is."""
    torch.manual_seed(0)
    network = KINDS[kind][0](FEATURES, units, batch_first=True, dtype=dtype, **options)
    state = FreeState(network)
    with torch.no_grad():
        for parameter in state.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return {backend: ContextualRNN(network, state, backend) for backend in ("torch", "native", "auto")}


def packed(model: ContextualRNN, batch: Batch) -> Tensor:
    parts = pack_padded_sequence(batch.x, batch.lengths, batch_first=True, enforce_sorted=False)
    output, _ = model(parts)
    return pad_packed_sequence(output, batch_first=True, total_length=batch.x.shape[1])[0]


def loop_over_cells(kind: str, model: ContextualRNN) -> Callable[[Tensor, Tensor], Tensor]:
    """A loop as people write it: the cell of the network's weights, and the initial state where a row begins anew."""
    cell = KINDS[kind][1](FEATURES, model.network.hidden_size, dtype=next(model.parameters()).dtype)  # pyright: ignore
    for name, parameter in list(model.network.named_parameters()):
        setattr(cell, name.removesuffix("_l0"), parameter)

    def run(x: Tensor, reset: Tensor) -> Tensor:
        start = model.initial_state(batch_size=len(x))
        start = tuple(leaf[0] for leaf in start) if isinstance(start, tuple) else (start[0],)
        state, outputs = start, []
        for step in range(x.shape[1]):
            anew = reset[:, step, None]
            state = tuple(torch.where(anew, first, now) for first, now in zip(start, state, strict=True))
            state = cell(x[:, step], state if kind == "LSTM" else state[0])
            state = state if isinstance(state, tuple) else (state,)
            outputs.append(state[0])
        return torch.stack(outputs, 1)

    return run


def contenders(kind: str, batch: Batch, compiled: bool, **options: Any) -> dict[str, Callable[[], Any]]:
    """A training step of each way on the same batch."""
    models = build(kind, batch.cotangent.shape[2], **options)
    auto, x = models["auto"], batch.x
    ways: dict[str, Callable[[], Tensor]] = {
        DENSE: lambda: models["torch"](x)[0],
        PACKED: lambda: packed(models["torch"], batch),
        WHOLE: lambda: models["native"](x)[0],
        LENGTHS: lambda: auto(x, lengths=batch.lengths)[0],
        FEW: lambda: auto(x, reset=batch.resets[FEW])[0],
        MANY: lambda: auto(x, reset=batch.resets[MANY])[0],
    }
    loop = loop_over_cells(kind, auto)
    ways[LOOP] = lambda: loop(x, batch.resets[FEW])
    if compiled and x.shape[1] <= LONGEST_COMPILED:
        program = torch.compile(loop)
        ways[COMPILED] = lambda: program(x, batch.resets[FEW])
    parameters = list(auto.parameters())
    cotangent = torch.cat([batch.cotangent] * (2 if options.get("bidirectional") else 1), 2)

    def step(way: Callable[[], Tensor]) -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        output = way()
        output.backward(cotangent)
        return output

    steps: dict[str, Callable[[], Any]] = {name: lambda way=way: step(way) for name, way in ways.items()}
    if has_jax() and not options:
        steps[SCAN] = scan_in_jax(kind, auto, batch, FEW)
    return steps


def scan_in_jax(kind: str, model: ContextualRNN, batch: Batch, resets: str) -> Callable[[], Any]:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from benchmarks.jax_scan import step_of

    start = model.initial_state(batch_size=1)
    start = start if isinstance(start, tuple) else (start,)
    return step_of(kind, model.network, start, batch.x, batch.resets[resets], batch.cotangent)


def check() -> list[str]:
    """Outputs and gradients of all ways agree to 1e-10 in float64; names what was compared."""
    for kind in KINDS:
        models, batch = build(kind, 19, torch.float64), Batch.of(9, 12, 19, torch.float64)
        loop, auto = loop_over_cells(kind, models["auto"]), models["auto"]
        pairs = {
            WHOLE: (models["native"](batch.x)[0], models["torch"](batch.x)[0]),
            LENGTHS: (auto(batch.x, lengths=batch.lengths)[0], packed(models["torch"], batch)),
            MANY: (auto(batch.x, reset=batch.resets[MANY])[0], loop(batch.x, batch.resets[MANY])),
        }
        parameters = list(auto.parameters())
        for name, outputs in pairs.items():
            ours, theirs = [[o, *torch.autograd.grad(o, parameters, batch.cotangent)] for o in outputs]
            _assert_alike(f"{kind}, {name}", ours, theirs)
            if name == MANY and has_jax():
                output, weights, start = scan_in_jax(kind, auto, batch, MANY)()
                ordered = [weights[name] for name, _ in auto.network.named_parameters()]
                scanned = [output, *ordered, *reversed(start)]  # the parameters of a state are c, h
                _assert_alike(f"{kind}, JAX", [torch.from_numpy(numpy.array(each)) for each in scanned], theirs)
    return list(KINDS)


def _assert_alike(name: str, ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        worst = float((one.view_as(other) - other).detach().abs().max() / other.detach().abs().max())
        assert worst < 1e-10, f"{name}: differs by {worst:.1e}"


def time_steps(kind: str, size: tuple[int, int, int], rounds: int, compiled: bool) -> Seconds:
    """Seconds a real step of each way, one figure a round, and of the multiply-adds of a dense step at the peak."""
    torch.manual_seed(1)
    sequences, peak = Batch.of(*size), machine.peak()
    steps = contenders(kind, sequences, compiled)
    batch, length, units = size
    gates = 4 if kind == "LSTM" else 3
    adds = batch * length * gates * units * (3 * units + 2 * FEATURES)
    steps["multiply-adds at peak"] = lambda: [peak.run() for _ in range(max(1, adds // peak.multiply_adds))]  # pyright: ignore
    share = {"multiply-adds at peak": max(1, adds // peak.multiply_adds) * peak.multiply_adds / adds}
    share |= {PACKED: sequences.real, LENGTHS: sequences.real}
    taken = _alternate(steps, rounds, time.process_time)  # JAX computes in threads of its own
    return {name: [each / share.get(name, 1) / (batch * length) for each in seconds] for name, seconds in taken.items()}


def time_stacks(rounds: int) -> dict[str, Seconds]:
    """Dense batches of two layers in both directions, at H = 64."""
    batch = Batch.of(32, 64, 64)
    return {
        kind: _alternate(
            {name: way for name, way in contenders(kind, batch, False, num_layers=2, bidirectional=True).items()
             if name in (DENSE, WHOLE)}, rounds, time.thread_time)
        for kind in KINDS
    }  # fmt: skip


def time_fading(kind: str, rounds: int) -> Seconds:
    """Dense steps through many time steps, from a loss at all of them and from one at the last alone."""
    models, batch = build(kind, FADING[2]), Batch.of(*FADING)
    parameters = list(models["torch"].parameters())

    def step(backend: str, first: int) -> None:
        for parameter in parameters:
            parameter.grad = None
        output, _ = models[backend](batch.x)
        output[:, first:].backward(batch.cotangent[:, first:])

    return _alternate(
        {
            f"{backend}, {loss}": lambda backend=backend, first=first: step(backend, first)
            for backend in ("torch", "native")
            for loss, first in ((EVERY, 0), (LAST, -1))
        },
        rounds,
        time.thread_time,
    )


def time_threads(kind: str, rounds: int) -> Seconds:
    """A dense step at B = 256, on one thread and on two by turns: between two processes a shared machine changes."""
    step = contenders(kind, Batch.of(256, 25, 128), False)[WHOLE]

    def on(threads: int) -> None:
        torch.set_num_threads(threads)
        step()

    return _alternate({"one": lambda: on(1), "two": lambda: on(2)}, rounds, time.perf_counter)


def _alternate(steps: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> Seconds:
    return interleave({name: repeated(step) for name, step in steps.items()}, 0, rounds, STRETCH, clock)


def figures(kind: str, size: tuple[int, int, int], seconds: Seconds) -> list[Figure]:
    """Each way against torch's dense step."""
    title, most = f"{kind}, B = {size[0]}, T = {size[1]}, H = {size[2]}", KINDS[kind][2]
    rows = [
        Figure(f"{title}: {name} / {DENSE}", ratio(seconds[name], seconds[DENSE]), "at most", most) for name in OURS
    ]
    ours = {PACKED: LENGTHS, LOOP: FEW, COMPILED: FEW, SCAN: FEW}
    rows += [
        Figure(f"{title}: {name} / {of}", ratio(seconds[name], seconds[of]))
        for name, of in ours.items()
        if name in seconds
    ]
    peak = "multiply-adds at peak"
    return [
        *rows,
        *[Figure(f"{title}: {name} / {peak}", ratio(seconds[name], seconds[peak])) for name in (DENSE, WHOLE)],
    ]


def run(options: Benchmark) -> dict[str, Any]:
    """Check, measure, print and write; returns what is written to ragged.json."""
    rounds, sizes = (2, SIZES[1:2]) if options.quick else (options.rounds, SIZES)
    report: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.ragged", *sys.argv[1:]]),
        "machine": machine.describe() | {"native kernel": cpu.availability()},
        "quick": options.quick,
    }
    rows, measured = [], {}
    with Workers(here=options.quick) as workers:
        report["gate"] = workers.run(1, check)
        for kind in KINDS:
            for size in sizes:
                seconds = workers.run(1, time_steps, kind, size, rounds, options.compile and not options.quick)
                rows += figures(kind, size, seconds)
                measured[f"{kind} {size}"] = {name: spread(each) for name, each in seconds.items()}
                print("\n".join(row.line() for row in figures(kind, size, seconds)), flush=True)
        for kind, seconds in workers.run(1, time_stacks, rounds).items():
            name = f"{kind}, two layers, both directions: {WHOLE} / {DENSE}"
            rows.append(Figure(name, ratio(seconds[WHOLE], seconds[DENSE]), "at most", KINDS[kind][2]))
        for kind in KINDS if not options.quick else ():
            seconds = workers.run(1, time_fading, kind, min(rounds, 8))
            title, last = f"{kind}, B = {FADING[0]}, T = {FADING[1]}, H = {FADING[2]}", seconds[f"native, {LAST}"]
            rows.append(
                Figure(f"{title}: native, {LAST} / {EVERY}", ratio(last, seconds[f"native, {EVERY}"]), "at most", 1.2)
            )
            rows.append(Figure(f"{title}: {LAST}, torch / native", ratio(seconds[f"torch, {LAST}"], last)))
        if not options.quick and len(machine.available_cores()) > 1:
            for kind in KINDS:
                seconds = workers.run(2, time_threads, kind, rounds)
                gain = min(seconds["one"]) / min(seconds["two"])
                name = f"{kind}, B = 256, {WHOLE}: one thread / two"
                rows.append(Figure(name, gain, "at least", GAIN_OF_TWO_THREADS))
    report |= {"figures": [row.summary() for row in rows], "microseconds a real step": measured}
    conclude(options.out / "ragged.json", report, rows)
    return report


if __name__ == "__main__":
    run(tyro.cli(Benchmark))

"""What is measured, and the figures that must come out of it, each beside its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks import recurrence
from benchmarks.machine import available_cores
from benchmarks.recurrence import PEAK, thread_name
from benchmarks.size import APART, BARE, COMPILED, EAGER, FUSED, JAX, OURS, PLAIN, PROJECTING, TRAIN, Cell, Size
from benchmarks.training_step import RANK, low_rank_step, training_step
from benchmarks.workers import Workers, run_alone
from contextual_rnn.experiments.runs.folder import write_json
from contextual_rnn.ops import KERNELS

# Both unroll the steps: compiling takes minutes beyond this.
LONGEST_COMPILED = 24


@dataclass(frozen=True)
class Figure:
    """One ratio beside its target; `value` is None where it was not measured, and `note` says why."""

    name: str
    value: float | None
    bound: Literal["at least", "at most"] = "at least"
    target: float | None = None  # of what is stated alone
    note: str = ""

    @property
    def holds(self) -> bool | None:
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target

    def line(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.2f}"
        target = "" if self.target is None else f"(target {self.bound} {self.target:g})"
        verdict = {True: "holds", False: "does not hold", None: ""}[self.holds]
        return f"{self.name}: {value} {target}  {verdict}  {self.note}".rstrip()

    def summary(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def conclude(path: Path, report: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    """Print the figures, a line each, and write the report as JSON to `path`."""
    print("\n".join(figure.line() for figure in figures))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)


@dataclass(frozen=True)
class Peers:
    """The optional peers that are not timed, and why."""

    left_out: dict[str, str]

    def among(self, names: list[str], steps: int) -> list[str]:
        """`names` less those that are not timed, or not at so many steps."""
        too_long = {JAX, COMPILED} if steps > LONGEST_COMPILED else set()
        return [name for name in names if name not in self.left_out and name not in too_long]


@dataclass(frozen=True)
class Plan:
    """Sizes and times. `seconds` is spent on a named figure, in `least` rounds or more where one takes longer."""

    seconds: float
    least: int
    threads: tuple[int, ...]
    gate: Size  # where everything must agree before the first time is taken
    base: Size  # the retrieval task, K = 4; the grid's axes go through it
    steps: tuple[int, ...]
    long_steps: tuple[int, ...]
    units: tuple[int, ...]
    batches: tuple[int, ...]
    long: Size
    long_gate: Size  # less than `long`, all of whose sequences would not fit with an explicit A in float64
    lengths: tuple[int, int]
    wide: Size
    threaded: Size


FULL = Plan(
    seconds=8.0,
    least=3,
    threads=(1, 2),
    gate=Size(batch=32),
    base=Size(),
    steps=(5, 11, 23, 47),
    long_steps=(11, 44, 176, 704),
    units=(25, 50, 100, 200),
    batches=(32, 128, 512),
    long=Size(batch=32, steps=2048, units=64),
    long_gate=Size(batch=2, steps=2048, units=64),
    lengths=(512, 4096),
    wide=Size(batch=64, steps=128, units=256),
    threaded=Size(batch=512, steps=11, units=128),
)
QUICK = Plan(
    seconds=0.05,
    least=1,
    threads=(1,),
    gate=Size(batch=16, steps=5, units=8),
    base=Size(batch=16, steps=5, units=8),
    steps=(5, 7),
    long_steps=(5, 16),
    units=(8,),
    batches=(8, 16),
    long=Size(batch=2, steps=64, units=8),
    long_gate=Size(batch=2, steps=64, units=8),
    lengths=(32, 64),
    wide=Size(batch=4, steps=16, units=16),
    threaded=Size(batch=16, steps=5, units=16),
)


@dataclass(frozen=True)
class Refused:
    """A cell of the grid that was not timed, because its contenders did not agree."""

    cell: str
    reason: str

    def line(self) -> str:
        return f"refused: {self.cell}: {self.reason}"


Results = Iterator[Cell | Figure | Refused]


def step(plan: Plan, peers: Peers, workers: Workers) -> Results:
    """A whole training step from a zero state, all peers."""
    targets = {
        TRAIN: {EAGER: 20.0, COMPILED: 5.0, JAX: 2.5},
        FUSED: {EAGER: 14.0, COMPILED: 4.0, JAX: 1.8},
        PLAIN: {EAGER: 14.0, COMPILED: 4.0, JAX: 1.8},
    }
    names = peers.among([TRAIN, FUSED, PLAIN, EAGER, COMPILED, JAX], plan.base.steps)
    for size in _on_threads(plan.base, plan.threads):
        cell = workers.run(size.threads, training_step, size, names, plan.seconds)
        yield cell
        for ours, wanted in targets.items():
            for peer, target in wanted.items():
                name = f"training step, {_threads(size)}: {peer} / {ours}"
                yield Figure(name, cell.ratio(peer, ours), "at least", target, peers.left_out.get(peer, ""))


def initial(plan: Plan, peers: Peers, workers: Workers) -> Results:
    """A training step from a contextual A(0), dense and of low rank."""
    for size in _on_threads(replace(plan.base, initial="dense"), plan.threads):
        names = peers.among([TRAIN, FUSED, PLAIN, EAGER, JAX], size.steps)
        if size.threads == 1:
            names += peers.among([COMPILED], size.steps)
        cell = workers.run(size.threads, training_step, size, names, plan.seconds)
        yield cell
        name = f"training step, contextual dense A(0), {_threads(size)}: {EAGER} / {TRAIN}"
        yield Figure(name, cell.ratio(EAGER, TRAIN), "at least", 8.0)
    for size in _on_threads(plan.base, plan.threads):
        cell = workers.run(size.threads, low_rank_step, size, plan.seconds)
        yield cell
        for ours in (TRAIN, FUSED, PLAIN):
            name = f"training step, {_threads(size)}: {ours}, A(0) of rank {RANK} / zero state"
            yield Figure(name, cell.ratio(f"{ours}, rank {RANK}", ours), "at most", 1.4)


def floor(plan: Plan, peers: Peers, workers: Workers) -> Results:
    """The recurrence alone beside the time of its multiply-adds at the processor's peak."""
    targets = {OURS: 2.4 if "avx2" in KERNELS["cpu"].availability() else 2.2, BARE: 2.0}
    if not recurrence.has_kernel():
        del targets[BARE]
    names = peers.among([*targets, EAGER, COMPILED, JAX, PEAK], plan.base.steps)
    cell = workers.run(1, recurrence.recurrence, plan.base, names, plan.seconds)
    yield cell
    note = f"{recurrence.multiply_adds(plan.base):,} multiply-adds"
    for ours, target in targets.items():
        name = f"recurrence, 1 thread: {ours} / its multiply-adds at peak"
        yield Figure(name, cell.ratio(ours, PEAK), "at most", target, note)
    cell = workers.run(1, recurrence.projection, plan.base, plan.seconds)
    yield cell
    name = f"recurrence, {recurrence.FEATURES} features, 1 thread: {PROJECTING} / {APART}"
    yield Figure(name, cell.ratio(PROJECTING, APART), "at most", 1.6)


def long(plan: Plan, peers: Peers, workers: Workers) -> Results:
    """Long sequences, wide states, threads."""
    workers.run(1, recurrence.check_long, plan.long_gate)
    yield _memory(plan.long)

    sizes = [replace(plan.long, steps=steps) for steps in plan.lengths]
    short, longest = workers.run(1, recurrence.lengths, sizes, plan.seconds, plan.least)
    yield from (short, longest)
    tokens = {cell.size.steps: [s / cell.size.steps for s in cell.seconds[OURS]] for cell in (short, longest)}
    per_token = Cell("recurrence", plan.long, {str(steps): seconds for steps, seconds in tokens.items()})
    value = per_token.ratio(*map(str, reversed(plan.lengths)))
    yield Figure("time a token, T={} / T={}".format(*reversed(plan.lengths)), value, "at most", 1.5)

    cell = workers.run(1, recurrence.recurrence, plan.wide, [OURS, EAGER], plan.seconds, plan.least)
    yield cell
    name = f"recurrence, H={plan.wide.units} B={plan.wide.batch} T={plan.wide.steps}, 1 thread: {EAGER} / {OURS}"
    yield Figure(name, cell.ratio(EAGER, OURS), "at least", 5.0)

    name, cores = f"recurrence, B={plan.threaded.batch} H={plan.threaded.units}: 1 thread / 2", len(available_cores())
    if cores < 2 or 2 not in plan.threads:
        yield Figure(name, None, "at least", 1.6, "only one core" if cores < 2 else "not in the quick run")
        return
    cell = workers.run(2, recurrence.thread_scaling, plan.threaded, 2, plan.seconds)
    yield cell
    yield Figure(name, cell.ratio(thread_name(1), thread_name(2)), "at least", 1.6)


def grid(plan: Plan, peers: Peers, workers: Workers) -> Results:
    """Both measurements along T, H and B through the base size; torch.compile would take hours here.

    Contenders of one size that do not agree do not keep the others from being timed.
    """
    steppers: dict[str, tuple[Callable[..., Cell], list[str], tuple[int, ...]]] = {
        "training step": (training_step, [TRAIN, FUSED, PLAIN, EAGER, JAX], plan.steps),
        "recurrence": (recurrence.recurrence, [OURS, EAGER, JAX], plan.long_steps),
    }
    for what, (measure, names, steps) in steppers.items():
        sizes = [replace(plan.base, steps=value) for value in steps]
        sizes += [replace(plan.base, units=value) for value in plan.units]
        sizes += [replace(plan.base, batch=value) for value in plan.batches]
        for through in dict.fromkeys(sizes):
            for size in _on_threads(through, plan.threads):
                try:
                    yield workers.run(size.threads, measure, size, peers.among(names, size.steps), plan.seconds / 4)
                except AssertionError as error:
                    yield Refused(f"{what}, {size}", str(error))


PARTS: dict[str, Callable[[Plan, Peers, Workers], Results]] = {
    "step": step,
    "initial": initial,
    "floor": floor,
    "long": long,
    "grid": grid,
}


def _memory(size: Size) -> Figure:
    name = f"peak extra memory, T={size.steps} H={size.units} B={size.batch}: {OURS} / {EAGER}"
    try:
        ours, eager = (run_alone(recurrence.extra_memory, size, backend) for backend in ("auto", "reference"))
    except OSError as error:
        return Figure(name, None, "at most", 1 / 20, f"needs Linux: {error}")
    note = f"{ours / 2**20:.0f} MiB, {eager / 2**20:.0f} MiB"
    return Figure(name, ours / eager if eager > 0 else None, "at most", 1 / 20, note)


def _on_threads(size: Size, threads: tuple[int, ...]) -> Iterator[Size]:
    for count in threads:
        if count <= len(available_cores()):
            yield replace(size, threads=count)


def _threads(size: Size) -> str:
    return f"{size.threads} thread{'s' * (size.threads > 1)}"

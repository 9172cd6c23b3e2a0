"""Time sweeps: many runs against one after the other, stacks of seeds, ten thousand finished runs, checkpoints.

    python -m benchmarks.sweeps                  everything, some minutes on two idle cores
    python -m benchmarks.sweeps --only stack     one part: sweep, stack, skip or checkpoint
    python -m benchmarks.sweeps --quick          tiny runs, some seconds

Every part first sees that the runs it times have the bytes of the same runs alone. Prints and writes JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro

from benchmarks import machine
from benchmarks.parts import Figure
from contextual_rnn.experiments.config import Config, DecayConfig, RetrievalConfig, config_to_dict
from contextual_rnn.experiments.runs import checkpoint
from contextual_rnn.experiments.runs.folder import CONFIG, METRICS, RESULT, WEIGHTS, read_runs, write_json
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.sweeps.grid import combinations
from contextual_rnn.experiments.sweeps.stack import side_by_side
from contextual_rnn.experiments.sweeps.sweep import Progress, folder_name, sweep
from contextual_rnn.experiments.sweeps.workers import local_workers

Part = Literal["sweep", "stack", "skip", "checkpoint"]
SEEDS, CORES, ROUNDS = 8, 2, 2
MODELS: dict[str, Config] = {
    "fast weights": RetrievalConfig(state="zero", train_samples=38_400, validation_samples=1_000, epochs=2),
    "fast weights, context makes h(0) and A(0)": RetrievalConfig(
        state="context", leaves="h+a", train_samples=12_800, validation_samples=1_000, epochs=2
    ),
    "LSTM (retrieval)": RetrievalConfig(network="lstm", train_samples=6_400, validation_samples=500, epochs=2),
    "LSTM (decay)": DecayConfig(state="zero", epochs=1),
}


@dataclass(frozen=True)
class Benchmark:
    """Time sweeps, stacks of seeds, ten thousand finished runs, and checkpoints."""

    only: tuple[Part, ...] = get_args(Part)
    """The parts to run."""
    quick: bool = False
    """Tiny runs: to see that it works, not to quote."""
    out: Path = Path("results/benchmarks/sweeps.json")
    """Where to write; parts that are not run keep the figures that are there."""

    def tiny(self, config: Config) -> Config:
        if not self.quick:
            return config
        size = {"samples_per_period": 16} if isinstance(config, DecayConfig) else {"train_samples": 64}
        return dataclasses.replace(config, epochs=1, units=8, **size)


def run(options: Benchmark) -> dict[str, Any]:
    """Measure, print and write; returns what is written."""
    told: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for part in options.only:
        with tempfile.TemporaryDirectory() as folder:
            figures = []
            for figure in PARTS[part](options, Path(folder)):
                print(figure.line(), flush=True)
                figures.append(figure.summary())
        told[part] = {
            "command": " ".join(["python -m benchmarks.sweeps", *sys.argv[1:]]),
            "quick": options.quick,
            "machine": machine.describe(),
            "figures": figures,
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, told)
    return told


def time_sweep(options: Benchmark, folder: Path) -> Iterator[Figure]:
    """Sixteen equal short runs, in processes that have yet to start, and the same in series in this one."""
    base = options.tiny(DecayConfig(state="zero", epochs=13))
    configs = combinations(base, {}, seeds=2 * CORES if options.quick else 16)
    serial = _seconds(_in_series, configs, folder / "series")
    with local_workers(CORES) as executor:
        begin = time.perf_counter()
        progress = sweep(configs, folder / "sweep", executor)
        together = time.perf_counter() - begin
    _check_same(configs, folder / "sweep", folder / "series")
    own = _own_seconds(progress)
    note = f"{len(configs)} runs of {own / len(configs):.1f} s: {serial:.1f} s in series, {together:.1f} s in a sweep"
    yield Figure("a sweep on two cores, times as fast as in series", serial / together, "at least", 1.8, note)
    with local_workers(CORES) as executor:
        list(executor.map(_nothing, range(CORES)))  # processes have started and imported all
        begin = time.perf_counter()
        progress = sweep(configs[::2], folder / "warm", executor)
        warm = time.perf_counter() - begin
    for name, wall, spent in (
        ("the start of its processes included", together, own),
        ("without", warm, _own_seconds(progress)),
    ):
        overhead = 100 * (CORES * wall - spent) / spent
        note = f"{CORES} x {wall:.2f} s against {spent:.2f} s of the runs' own time"
        yield Figure(f"overhead of a sweep, {name}, %", overhead, "at most", 3, note)


def time_stack(options: Benchmark, folder: Path) -> Iterator[Figure]:
    """Eight seeds in one process against one after the other in it, and against two processes."""
    for name, base in MODELS.items():
        configs = combinations(options.tiny(base), {}, seeds=SEEDS)
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        with local_workers(CORES) as executor:
            list(executor.map(_nothing, range(CORES)))
            for number in range(1 if options.quick else ROUNDS):
                for way, do in WAYS.items():
                    place = folder / f"{name} {way} {number}"
                    taken[way].append(_seconds(functools.partial(do, executor), configs, place))
                    _check_same(configs, place, folder / f"{name} series 0")
        series, stack, processes = taken.values()
        ratio = statistics.median(a / b for a, b in zip(series, stack, strict=True))
        other = statistics.median(a / b for a, b in zip(series, processes, strict=True))
        note = f"{statistics.median(series):.1f} s in series; two processes are {other:.2f} times as fast as that"
        yield Figure(f"{SEEDS} seeds stacked, times as fast as in series: {name}", ratio, "at least", 1.5, note)


def time_skip(options: Benchmark, folder: Path) -> Iterator[Figure]:
    """Ten thousand finished runs: a sweep that skips them all, the report, the table and Parquet."""
    # Here, as with the command: the processes of a sweep import this module too.
    from contextual_rnn.experiments.report.answer import answer
    from contextual_rnn.experiments.report.html import write_report
    from contextual_rnn.experiments.runs.summary import write_parquet
    from contextual_rnn.experiments.stats.finals import table

    count = 6 if options.quick else 10_000
    base = DecayConfig(state="zero", samples_per_period=8, units=4, epochs=2)
    configs = combinations(base, {"state": ["zero", "normal"]}, seeds=count // 2)
    models = {config.state: train(config, folder / "models" / config.state) for config in configs[:: count // 2]}
    for config in configs:
        model, place = models[config.state], folder / "sweep" / folder_name(config)
        place.mkdir(parents=True)
        for name in (WEIGHTS, METRICS):
            (place / name).write_bytes((model.folder / name).read_bytes())
        final = {
            name: value * (1 + config.seed / count) if isinstance(value, float) else value
            for name, value in model.result["final"].items()
        }
        (place / RESULT).write_text(json.dumps(model.result | {"final": final}))
        (place / CONFIG).write_text(json.dumps(config_to_dict(config), indent=2) + "\n")
    with local_workers(CORES) as executor:
        seconds = _seconds(lambda *_: sweep(configs, folder / "sweep", executor), configs, folder)
    yield Figure(f"seconds to skip {count} finished runs", seconds, "at most", 10)
    seconds = _seconds(lambda *_: write_report(folder / "sweep"), configs, folder)
    yield Figure(f"seconds of a report on {count} runs", seconds, "at most", 30)

    def results(*_: object) -> None:
        runs = read_runs(folder / "sweep")
        table(runs)
        write_parquet(runs, folder / "sweep" / "results.parquet")
        answer(runs)

    yield Figure(f"seconds of the results of {count} runs", _seconds(results, configs, folder), "at most", 30)


def time_checkpoints(options: Benchmark, folder: Path) -> Iterator[Figure]:
    """Checkpoints far more often than by default, every 0.1 s; the timer holds their cost down."""
    for name, base in MODELS.items():
        spent, save = [], checkpoint.save

        def timed(*arguments: Any, save: Callable[..., None] = save, spent: list[float] = spent) -> None:
            spent.append(_seconds(save, *arguments))

        checkpoint.save = timed
        try:
            run = train(options.tiny(dataclasses.replace(base, epochs=10)), folder / name, checkpoint_seconds=0.1)
        finally:
            checkpoint.save = save
        assert run.result is not None
        cost, note = 100 * sum(spent) / run.result["seconds"], f"{len(spent)} in {run.result['seconds']:.1f} s"
        yield Figure(f"checkpoints every 0.1 s, % of training: {name}", cost, "at most", 2, note)


PARTS: dict[Part, Callable[[Benchmark, Path], Iterator[Figure]]] = {
    "sweep": time_sweep, "stack": time_stack, "skip": time_skip, "checkpoint": time_checkpoints,
}  # fmt: skip


def _in_series(configs: Sequence[Config], folder: Path) -> None:
    for config in configs:
        train(config, folder / folder_name(config))


def _stacked(configs: Sequence[Config], folder: Path) -> None:
    side_by_side(1, [functools.partial(train, config, folder / folder_name(config)) for config in configs])


WAYS: dict[str, Callable[[Any, Sequence[Config], Path], object]] = {
    "series": lambda executor, configs, folder: _in_series(configs, folder),
    "stack": lambda executor, configs, folder: _stacked(configs, folder),
    "processes": lambda executor, configs, folder: sweep(configs, folder, executor),
}


def _own_seconds(progress: Progress) -> float:
    return sum(outcome.result["seconds"] for outcome in progress.outcomes.values() if outcome.result)


def _nothing(_: int) -> None:
    torch.zeros(1)


def _seconds(function: Callable[..., object], *arguments: Any) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def _check_same(configs: Sequence[Config], folder: Path, alone: Path) -> None:
    for config in configs:
        found, wanted = ((place / folder_name(config) / WEIGHTS).read_bytes() for place in (folder, alone))
        assert found == wanted, f"other weights than alone: {folder / folder_name(config)}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(tyro.cli(Benchmark))

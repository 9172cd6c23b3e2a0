"""The paper's two experiments, all states, then the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from tqdm import tqdm

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import PRESETS, Config, DecayConfig, Preset, RetrievalConfig, StateName
from contextual_rnn.experiments.report.html import write_report
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.folder import METRICS, RESULT, Run
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.sweeps.workers import local_workers
from contextual_rnn.experiments.training.threads import cores

RETRIEVAL_STATES: tuple[StateName, ...] = ("zero", "free", "context")
DECAY_STATES: tuple[StateName, ...] = ("zero", "normal")


def runs_of(preset: Preset) -> dict[str, Config]:
    """Folder and configuration of every run of a preset, longest first so that cores finish together.

    Retrieval runs under the authors' own start and beside it under a sound one, both with the state (h, A), so that
    nothing but the start differs; the sound one for as many epochs as it needs to pass 99 %. The paper's sizes and
    epochs are those of the preset paper; more seeds come from results/evidence.sh.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    paper = preset == "paper"
    runs: dict[str, Config] = {}
    for state in reversed(RETRIEVAL_STATES):
        authors = RetrievalConfig(state=state, leaves="h+a", start="wenke2019", epochs=200 if paper else 30)
        runs[f"retrieval-authors-start/{state}-seed0"] = authors
    for state in reversed(DECAY_STATES):
        runs[f"decay/{state}-seed0"] = DecayConfig(state=state, epochs=65 if paper else 25)
    for state in reversed(RETRIEVAL_STATES if paper else ("zero", "context")):
        sound = RetrievalConfig(state=state, leaves="h+a", epochs=15 if paper else 6)
        runs[f"retrieval-sound-start/{state}-seed0"] = sound
    return runs


def reproduce(preset: Preset, folder: Path, *, workers: int | None = None) -> Path:
    """Train every run of `preset` below `folder`, skipping finished ones, and return the path of the report.

    Runs train side by side in `workers` processes (by default one a core). A run that fails does not stop the others;
    RuntimeError lists those that failed once all are done, and the report is written all the same.
    """
    runs = runs_of(preset)
    epochs = sum(config.epochs for config in runs.values())

    def describe() -> None:
        done = store.count(folder, [f"{name}/{RESULT}" for name in runs])
        interrupts.describe(f"with {done} of {len(runs)} runs done")

    try:
        with local_workers(workers or cores()) as pool:
            futures = {pool.submit(train, config, folder / name): name for name, config in runs.items()}
            with tqdm(total=epochs, unit="epoch", desc=f"reproduce {preset}", disable=None) as bar:
                for done, latest in _watch(list(futures), [folder / name for name in runs]):
                    describe()
                    bar.update(done - bar.n)
                    bar.set_postfix_str(latest)
    finally:
        describe()
    failed = {name: error for future, name in futures.items() if (error := future.exception()) is not None}
    report = write_report(folder)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(runs)} runs failed, the report is in {report}: {failed}")
    return report


def _watch(futures: list[Future[Run]], folders: list[Path]) -> Iterator[tuple[int, str]]:
    """Finished epochs and the newest metric over all runs, until all are done; read from the runs' own files."""
    while True:
        finished = all(future.done() for future in futures)
        lines = {folder: _lines(folder / METRICS) for folder in folders}
        newest = max((f for f in folders if lines[f]), key=lambda f: (f / METRICS).stat().st_mtime, default=None)
        latest = f"{newest.parent.name}/{newest.name}: {_headline(lines[newest][-1])}" if newest else ""
        yield sum(max(len(each) - 1, 0) for each in lines.values()), latest
        if finished:
            return
        time.sleep(0.5)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _headline(line: str) -> str:
    wanted = ("validation_accuracy", "validation_squared_error")
    pairs = (part.strip(' "{}').split('": ') for part in line.split(", "))
    return ", ".join(
        f"{pair[0].removeprefix('validation_')} {float(pair[1]):.4g}" for pair in pairs if pair[0] in wanted
    )

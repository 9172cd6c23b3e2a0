"""The paper's two experiments, all states, then the report."""

from __future__ import annotations

import math
from pathlib import Path

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import PRESETS, Config, DecayConfig, Preset, RetrievalConfig, StateName
from contextual_rnn.experiments.progress import Bar
from contextual_rnn.experiments.report.html import write_report
from contextual_rnn.experiments.runs.folder import METRICS, RESULT
from contextual_rnn.experiments.sweeps.estimate import estimated_seconds
from contextual_rnn.experiments.sweeps.sweep import Progress, sweep
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


def plan(preset: Preset, folder: Path, *, workers: int | None = None) -> str:
    """How many runs `reproduce` would train below `folder`, and how long that would take."""
    runs = runs_of(preset)
    left = [config for name, config in runs.items() if not (folder / name / RESULT).is_file()]
    together = min(workers or cores(), len(left) or 1)
    minutes = math.ceil(sum(estimated_seconds(left)) / together / 60)
    return f"Left to train: {len(left)} runs, {together} side by side, about {minutes} min.\n"


def reproduce(preset: Preset, folder: Path, *, workers: int | None = None) -> Path:
    """Train every run of `preset` below `folder`, skipping finished ones, and return the path of the report.

    Runs train side by side in `workers` processes (by default one a core). A run that fails does not stop the others;
    RuntimeError lists those that failed once all are done, and the report is written all the same.
    """
    runs = runs_of(preset)
    epochs = sum(config.epochs for config in runs.values())
    with (
        Bar(total=epochs, unit="epoch", desc=f"reproduce {preset}") as bar,
        local_workers(workers or cores()) as pool,
    ):

        def watch(progress: Progress) -> None:
            interrupts.describe_runs(progress.done, progress.total)
            bar.update(sum(_epochs(folder / name / METRICS) for name in runs) - bar.n)

        progress = sweep(runs, folder, pool, watch=watch)
    report = write_report(folder)
    if progress.failed:
        reasons = "; ".join(f"{folder / name}: {reason}" for name, reason in progress.reasons.items())
        raise RuntimeError(f"{len(progress.failed)} of {len(runs)} runs failed, the report is in {report}: {reasons}")
    return report


def _epochs(metrics: Path) -> int:
    """The finished epochs of a run; its first line is of the time before training."""
    return max(metrics.read_bytes().count(b"\n") - 1, 0) if metrics.is_file() else 0

"""One self-contained HTML file of every run below a folder: the paper's figures, a table, the commands."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from contextual_rnn.experiments import drawings, figures
from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.linear_cosine_decay import linear_cosine_decay
from contextual_rnn.experiments.results import Run, config_to_dict, read_runs, summary, write_json
from contextual_rnn.experiments.training import command
from contextual_rnn.experiments.trajectories import sample_trajectories

REPORT, SUMMARY = "report.html", "summary.json"
FIGURE_6_PERIODS, FIGURE_6_INITIAL, FIGURE_6_SAMPLES = (2.0, 3.0), 3.0, 10
METRICS = {
    "validation_accuracy": "accuracy",
    "validation_log_likelihood": "log-likelihood (nats)",
    "validation_squared_error": "squared error of the scaled step",
    "free_running_squared_error": "free-running squared error (x²)",
}
# Two states differ where their accuracies do by more than this; seeds alone move a converged accuracy by less.
GAP = 0.05


@dataclass(frozen=True)
class Section:
    """Runs that differ in state and seed alone, and their picture."""

    title: str
    caption: str
    svg: Markup


def write_report(folder: Path) -> Path:
    """Write report.html and summary.json (medians and every seed's final metrics) into `folder`; returns the former.

    Unfinished runs are shown with the epochs they have. Raises ValueError where there is no run below `folder`.
    """
    folder = Path(folder)
    runs = read_runs(folder)
    retrieval = [run for run in runs if run.task == "retrieval"]
    decay = [run for run in runs if run.task == "decay"]
    environment = Environment(
        loader=PackageLoader("contextual_rnn.experiments", "."), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("report.html.jinja").render(
        retrieval_drawing=_inline(drawings.retrieval_model(), "drawing1"),
        decay_drawing=_inline(drawings.decay_model(), "drawing3"),
        retrieval=[_retrieval_section(group, index) for index, group in enumerate(_groups(retrieval))],
        finding=finding(retrieval),
        decay_sequence=_inline(figures.decay_sequence(), "figure4"),
        decay=[_decay_section(group, index) for index, group in enumerate(_groups(decay))],
        samples=_figure_6(decay),
        metrics=METRICS,
        rows=[_row(run) for run in runs],
        commands=[command(run.config, run.folder) for run in runs],
        versions=sorted({json.dumps(run.result["versions"]) for run in runs if run.result is not None}),
    )
    write_json(folder / SUMMARY, summary(runs))
    beside = folder / (REPORT + ".writing")
    beside.write_text(html, encoding="utf-8")
    os.replace(beside, folder / REPORT)
    return folder / REPORT


def finding(runs: Sequence[Run]) -> str | None:
    """One sentence on whether the gap between states is a matter of the start; None without both starts."""
    gaps: dict[str, tuple[float, str]] = {}
    for start in ("wenke2019", "sound"):
        finals = {
            state: [run.metrics[-1]["validation_accuracy"] for run in runs if _is_finished(run, start, state)]
            for state in ("zero", "context")
        }
        if not all(finals.values()):
            return None
        zero, context = (statistics.median(values) for values in finals.values())
        gaps[start] = (context - zero, f"context {context:.1%}, zero {zero:.1%}")
    (authors, authors_text), (sound, sound_text) = gaps["wenke2019"], gaps["sound"]
    seen = f"under the authors' own start {authors_text}; under a sound start {sound_text}"
    if authors > GAP and abs(sound) < GAP:
        return f"The gap between the states is a matter of the start: {seen}."
    if authors > GAP and sound > GAP:
        return f"The contextual state is ahead under both starts: {seen}."
    return f"These runs do not show the paper's gap under the authors' start: {seen}."


def _is_finished(run: Run, start: str, state: str) -> bool:
    config = run.config
    if run.result is None or not isinstance(config, RetrievalConfig):
        return False
    return (config.start, config.state) == (start, state)


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that share everything but state, seed and epochs, the authors' start first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = {k: v for k, v in config_to_dict(run.config).items() if k not in ("state", "seed", "epochs")}
        groups.setdefault(json.dumps(shared), []).append(run)
    return sorted(groups.values(), key=lambda group: getattr(group[0].config, "start", "") != "wenke2019")


def _seeds(runs: Sequence[Run]) -> str:
    seeds = len({run.config.seed for run in runs})
    return "One seed: no interval, read it as an illustration." if seeds == 1 else f"{seeds} seeds, each a thin line."


def _unfinished(runs: Sequence[Run]) -> str:
    names = ", ".join(run.folder.name for run in runs if run.result is None)
    return f" Unfinished: {names}." if names else ""


def _retrieval_section(runs: Sequence[Run], index: int) -> Section:
    config = runs[0].config
    assert isinstance(config, RetrievalConfig)
    start = "The authors' own start" if config.start == "wenke2019" else "A sound start"
    leaves = "state (h, A)" if config.leaves == "h+a" else "state h"
    caption = (
        f"Figure 2: {config.pairs} pairs, {config.units} units, {config.train_samples:,} sequences, {leaves}, "
        f"timing {config.timing}, {'mART, ' if config.modified else ''}S = {config.inner_steps}. "
    )
    svg = _inline(figures.retrieval_curves(runs), f"figure2-{index}")
    return Section(f"{start}, {leaves}, {config.timing}", caption + _seeds(runs) + _unfinished(runs), svg)


def _decay_section(runs: Sequence[Run], index: int) -> Section:
    caption = "Figure 5: squared error of the predicted, scaled step on the held-out periods 1, 2, 3 and 4. "
    svg = _inline(figures.decay_curves(runs), f"figure5-{index}")
    return Section("Validation", caption + _seeds(runs) + _unfinished(runs), svg)


def _figure_6(runs: Sequence[Run]) -> Markup | None:
    finished = [run for run in runs if run.config.state == "normal" and run.result is not None]
    if not finished:
        return None
    run = min(finished, key=lambda run: run.config.seed)
    periods = torch.tensor(FIGURE_6_PERIODS)
    paths = sample_trajectories(run, initial=FIGURE_6_INITIAL, periods=FIGURE_6_PERIODS, num_samples=FIGURE_6_SAMPLES)
    truths = linear_cosine_decay(torch.full_like(periods, FIGURE_6_INITIAL), periods)
    fans = figures.trajectory_fans(
        dict(zip(FIGURE_6_PERIODS, paths, strict=True)),
        dict(zip(FIGURE_6_PERIODS, truths, strict=True)),
        FIGURE_6_INITIAL,
    )
    return _inline(fans, "figure6")


def _row(run: Run) -> dict[str, object]:
    last = run.result["final"] if run.result is not None else (run.metrics[-1] if run.metrics else {})
    config = run.config
    return {
        "task": run.task,
        "state": config.state,
        "start": getattr(config, "start", "-"),
        "timing": getattr(config, "timing", "-"),
        "leaves": getattr(config, "leaves", "-"),
        "seed": config.seed,
        "epochs": f"{last.get('epoch', 0)} of {config.epochs}" + ("" if run.result is not None else ", unfinished"),
        "metrics": [_number(name, last.get(name)) for name in METRICS],
        "minutes": f"{run.result['seconds'] / 60:.1f}" if run.result is not None else "",
    }


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "non-finite"
    return f"{value:.2%}" if metric == "validation_accuracy" else f"{value:.4g}"


def _inline(figure: Figure, name: str) -> Markup:
    """The figure as an element of the page, its ids told apart from other figures' by `name`."""
    _, tag, rest = figures.to_svg(figure, name).partition("<svg")
    return Markup(tag + rest)

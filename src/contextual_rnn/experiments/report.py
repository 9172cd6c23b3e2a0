"""One self-contained HTML file of every run below a folder: the paper's figures, the final figures, the commands."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from contextual_rnn.experiments import drawings, figures
from contextual_rnn.experiments.calibration import calibration, calibration_finding, calibration_table
from contextual_rnn.experiments.comparison import STARTS, Group, differing, finding, groups_of, shown, words
from contextual_rnn.experiments.config import STATES
from contextual_rnn.experiments.linear_cosine_decay import linear_cosine_decay
from contextual_rnn.experiments.playground import playground
from contextual_rnn.experiments.report_tables import TASKS, epochs_of, final_figures, over_seeds
from contextual_rnn.experiments.results import WEIGHTS, Run, config_to_dict, read_runs, summary, write_json
from contextual_rnn.experiments.run_diagnostics import HEADER, diagnose_run, numbers_of
from contextual_rnn.experiments.training import command
from contextual_rnn.experiments.trajectories import sample_trajectories

REPORT, SUMMARY, CALIBRATION, DIAGNOSTICS = "report.html", "summary.json", "calibration.json", "diagnostics.json"
FIGURE_6_PERIODS, FIGURE_6_INITIAL, FIGURE_6_SAMPLES = (2.0, 3.0), 3.0, 10

# What a page shows of a large sweep; the numbers of all of it are in summary.json.
PICTURES, TABLES, ROWS, UNFINISHED = 12, 60, 500, 10
BROAD = 6.0  # inches; on a phone such a figure keeps its size and scrolls inside its card


@dataclass(frozen=True)
class Picture:
    """A figure with its texts; without `svg` there is nothing to draw, and the caption says why."""

    title: str
    caption: str
    svg: Markup | None


def write_report(folder: Path) -> Path:
    """Write report.html and what it shows as JSON into `folder`; returns the path of the former.

    summary.json has medians and every seed's final metrics; where there are trained weights, calibration.json says how
    often the truth lies within the samples, and diagnostics.json whether the initial state mattered. Unfinished runs
    are shown with the epochs they have. Of many groups of settings the page shows those nearest to the defaults and
    says so. Raises ValueError where there is no run below `folder`.
    """
    folder = Path(folder)
    runs = sorted(read_runs(folder), key=_place)
    by_task = {task: [run for run in runs if run.task == task] for task in TASKS}
    retrieval, decay = groups_of(by_task["retrieval"]), groups_of(by_task["decay"])
    told = [*_nearest(retrieval, TABLES), *_nearest(decay, TABLES)]
    listed = _listed(runs, told)
    calibrated = calibration(_nearest(decay, PICTURES))
    diagnosed = [_diagnosed(run) for run in _first_of_each(told)]
    environment = Environment(
        loader=PackageLoader("contextual_rnn.experiments", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    html = environment.get_template("report.html.jinja").render(
        retrieval_model=_inline(drawings.retrieval_model(), "figure1"),
        retrieval=_pictures(_nearest(retrieval, PICTURES), figures.retrieval_curves, "figure2"),
        finding=finding(_nearest(retrieval, TABLES)),
        decay_model=_inline(drawings.decay_model(), "figure3"),
        decay_sequence=_inline(figures.decay_sequence(), "figure4"),
        decay=_pictures(_nearest(decay, PICTURES), figures.decay_curves, "figure5"),
        samples=_samples(by_task["decay"]),
        calibration=_inline(figures.calibration_curves(calibrated), "calibration") if calibrated else None,
        spread=_inline(figures.spread_curves(calibrated), "spread") if calibrated else None,
        calibration_tables=[calibration_table(calibrated)] if calibrated else [],
        calibration_finding=calibration_finding(calibrated) if calibrated else "",
        **_playground(by_task["decay"]),
        diagnosed=[picture for picture, _ in diagnosed],
        diagnostics_tables=_diagnostics_tables([row for _, row in diagnosed]),
        tables=[final_figures(task, found) for task in by_task if (found := [r for r in listed if r.task == task])],
        over_seeds=over_seeds(told),
        commands=[run.result["command"] if run.result else command(run.config, run.folder) for run in listed],
        left_out=_left_out(runs, listed, [*retrieval, *decay]),
        versions=_versions(runs),
    )
    write_json(folder / SUMMARY, summary(runs))
    if calibrated:
        write_json(folder / CALIBRATION, calibrated)
    if diagnosed:
        write_json(folder / DIAGNOSTICS, [row for _, row in diagnosed])
    beside = folder / (REPORT + ".writing")
    beside.write_text(html, encoding="utf-8")
    os.replace(beside, folder / REPORT)
    return folder / REPORT


def _pictures(groups: Sequence[Group], draw: Callable[[Sequence[Run]], Figure], name: str) -> list[Picture]:
    pictures, apart_in = [], differing(groups) if groups else []
    for index, group in enumerate(groups):
        apart = [f"{words(option)} {shown(group.settings[option])}" for option in apart_in]
        title = ": ".join(filter(None, [STARTS.get(group.settings.get("start", "")), ", ".join(apart)]))
        shared = ", ".join(f"{words(option)} {shown(value)}" for option, value in group.settings.items())
        caption = f"{_seeds(group)} {_unfinished(group)} Shared settings: {shared}."
        drawn = any(run.metrics for run in group.runs)
        svg = _inline(draw(group.runs), f"{name}-{index}") if drawn else None
        pictures.append(Picture(title, caption if drawn else f"No epoch has finished yet. {caption}", svg))
    return pictures


def _seeds(group: Group) -> str:
    seeds = Counter(run.config.state for run in group.runs)
    single = [state for state in STATES if seeds[state] == 1]
    several = ", ".join(f"{state} {seeds[state]}" for state in STATES if seeds[state] > 1)
    which = f" of {' and '.join(single)}" if several else ""
    many = max(seeds.values()) > figures.THIN_LINES
    how = f"of more than {figures.THIN_LINES} a band from the first to the last decile" if many else "a thin line each"
    texts = [f"Seeds: {several}; {how}, in bold the median of the finished ones."] if several else []
    return " ".join(texts + ([f"One seed{which}: no interval, read as an illustration."] if single else []))


def _unfinished(group: Group) -> str:
    runs = [f"{run.config.state} seed {run.config.seed} ({epochs_of(run)})" for run in group.runs if run.result is None]
    more = f" and {len(runs) - UNFINISHED:,} more" if len(runs) > UNFINISHED else ""
    return f"Unfinished: {', '.join(runs[:UNFINISHED])}{more}." if runs else ""


def _nearest(groups: Sequence[Group], count: int) -> list[Group]:
    """Of more groups than `count` those with the fewest options changed, in their order."""
    nearest = sorted(range(len(groups)), key=lambda index: _changed(groups[index].runs[0]))[:count]
    return [groups[index] for index in sorted(nearest)]


def _listed(runs: Sequence[Run], groups: Sequence[Group]) -> list[Run]:
    """All of few runs, of many the first in `groups`."""
    if len(runs) <= ROWS:
        return list(runs)
    folders = {run.folder for group in groups for run in group.runs}
    return [run for run in runs if run.folder in folders][:ROWS]


def _left_out(runs: Sequence[Run], listed: Sequence[Run], groups: Sequence[Group]) -> str:
    if len(runs) == len(listed) and len(groups) <= PICTURES:
        return ""
    return (
        f"Here are {len(runs):,} runs in {len(groups):,} groups of settings. This page has pictures of at most "
        f"{PICTURES} groups a task, intervals of {TABLES}, and a line for {len(listed):,} runs, those nearest to the "
        f"defaults; {SUMMARY} has the figures of all, and contextual-rnn results writes them as Parquet."
    )


def _normal_run(runs: Sequence[Run]) -> Run | None:
    """The normal run of the lowest seed, a finished one where there is one; of several kinds the paper's."""
    normal = [run for run in runs if run.config.state == "normal"]
    return min(normal, key=lambda run: (not run.converged, _changed(run), run.config.seed), default=None)


def _changed(run: Run) -> int:
    """How many options but the seed are not at their defaults."""
    return sum(
        getattr(run.config, field.name) != field.default
        for field in dataclasses.fields(run.config)
        if field.name not in ("seed", "epochs")
    )


def _samples(runs: Sequence[Run]) -> Picture | None:
    """Figure 6."""
    run = _normal_run(runs)
    if run is None:
        return None
    source, initial, periods = _source(run), FIGURE_6_INITIAL, FIGURE_6_PERIODS
    try:
        paths = sample_trajectories(run, initial=initial, periods=periods, num_samples=FIGURE_6_SAMPLES)
    except (ValueError, RuntimeError) as error:
        return Picture("", f"{source} There are no trajectories to show: {error}", None)
    truths = linear_cosine_decay(torch.full((len(periods),), initial), torch.tensor(periods))
    sampled, true = (dict(zip(periods, curves, strict=True)) for curves in (paths, truths))
    return Picture("", source, _inline(figures.trajectory_fans(sampled, true, initial), "figure6"))


def _source(run: Run) -> str:
    return f"Run {run.folder.name}, seed {run.config.seed}{', unfinished' if run.result is None else ''}."


def _playground(runs: Sequence[Run]) -> dict[str, Any]:
    run = _normal_run([run for run in runs if (run.folder / WEIGHTS).is_file()])
    if run is None:
        return {"playground": None, "playground_source": ""}
    return {"playground": playground(run), "playground_source": _source(run)}


def _first_of_each(groups: Sequence[Group]) -> list[Run]:
    """Of every task, start and state but zero, the finished run with weights of the lowest seed in the first group."""
    found: dict[tuple[str, ...], Run] = {}
    for group in groups:
        for run in sorted(group.runs, key=lambda run: (_changed(run), run.config.seed)):
            kind = (run.task, getattr(run.config, "start", ""), run.config.state)
            if run.result is not None and run.config.state != "zero" and (run.folder / WEIGHTS).is_file():
                found.setdefault(kind, run)
    return list(found.values())


def _diagnosed(run: Run) -> tuple[Picture, dict[str, Any]]:
    diagnosis = diagnose_run(run)
    start = STARTS.get(getattr(run.config, "start", ""))
    words = [TASKS[run.task], start and start[0].lower() + start[1:], f"{run.config.state} state"]
    title = ", ".join(filter(None, words))
    svg = _inline(diagnosis.plot(), f"diagnosis-{run.task}-{getattr(run.config, 'start', '')}-{run.config.state}")
    row = {"title": title, "run": config_to_dict(run.config), **diagnosis.as_dict(), "row": numbers_of(diagnosis)}
    return Picture(title, f"{_source(run)} {'; '.join(diagnosis.findings())}.", svg), row


def _diagnostics_tables(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    table = [[row["title"], *row["row"]] for row in rows]
    return [{"title": "Losses under other states", "header": HEADER, "texts": 1, "rows": table}] if rows else []


def _place(run: Run) -> tuple[object, ...]:
    """Sorts runs: by task, the authors' start first, then by what the tables show first."""
    config = run.config
    options = [str(getattr(config, name, "")) for name in ("timing", "leaves")]
    start = getattr(config, "start", "")
    return list(TASKS).index(run.task), start == "sound", *options, STATES.index(config.state), config.seed, run.folder


def _versions(runs: Sequence[Run]) -> list[str]:
    found = Counter(
        ", ".join(f"{name} {version}" for name, version in run.result["versions"].items())
        for run in runs
        if run.result is not None
    )
    return [f"{versions} ({count} run{'s' * (count > 1)})" for versions, count in sorted(found.items())]


def _inline(figure: Figure, name: str) -> Markup:
    """The figure as an element of the page, its ids told apart from other figures' by `name`."""
    _, tag, rest = figures.to_svg(figure, name).partition("<svg")
    broad = ' class="broad"' if figure.get_figwidth() > BROAD else ""
    return Markup(tag + broad + rest)

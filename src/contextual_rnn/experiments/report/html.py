"""One self-contained HTML file of every run below a folder: the paper's figures, the final figures, the commands."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config import STATES
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report import model_drawings as drawings
from contextual_rnn.experiments.report.from_weights import Trained, changed, normal_run, source, trained
from contextual_rnn.experiments.report.playground import trajectories
from contextual_rnn.experiments.report.tables import epochs_of, final_figures, over_seeds
from contextual_rnn.experiments.runs.folder import Refused, Run, command, run_folders, write_json
from contextual_rnn.experiments.runs.published import read_results
from contextual_rnn.experiments.runs.summary import summary
from contextual_rnn.experiments.stats.groups import Group, differing, finding, groups_of
from contextual_rnn.experiments.stats.wording import STARTS, TASKS, option_text, words
from contextual_rnn.experiments.studies.ba2016_table_1 import table_1
from contextual_rnn.experiments.studies.calibration import calibration_finding, calibration_table
from contextual_rnn.experiments.studies.catalogue import ASIDE, CONTROLS, INGREDIENTS, MAP, TABLE_1, runs_of, study
from contextual_rnn.experiments.studies.diagnostics import HEADER
from contextual_rnn.experiments.studies.findings import findings
from contextual_rnn.experiments.studies.findings_in_short import in_short
from contextual_rnn.experiments.studies.gain_map import map_figure, map_table
from contextual_rnn.experiments.studies.start_ablations import control_table, ingredient_table
from contextual_rnn.experiments.studies.trajectories import sample_trajectories
from contextual_rnn.experiments.tasks.decay import linear_cosine_decay

REPORT, SUMMARY = "report.html", "summary.json"
FIGURE_6_PERIODS, FIGURE_6_INITIAL, FIGURE_6_SAMPLES = (2.0, 3.0), 3.0, 10

# Limits of what a page shows of a large sweep; summary.json has the numbers of all runs.
PICTURES, TABLES, ROWS, NAMED = 12, 60, 500, 10
BROAD = 6.0  # inches; on a phone such a figure keeps its size and scrolls inside its card


@dataclass(frozen=True)
class Picture:
    """A figure with its texts; where `svg` is None, the caption says why there is no figure."""

    title: str
    caption: str
    svg: Markup | None


def write_report(folder: Path, refused: Refused = lambda error: None) -> Path:
    """Write report.html into `folder`, and its data as JSON; return the path of report.html.

    summary.json has medians and every seed's final metrics; where there are trained weights, calibration.json says how
    often the truth lies within the samples, diagnostics.json whether the initial state mattered, and playground.json
    has sampled trajectories. Unfinished runs are shown with the epochs they have. Of many groups of settings the page
    shows those nearest to the defaults and says so. A folder of published results, such as results/, gives the same
    page without training. A damaged file is left out, with the reason in the page; its error, which names it, goes to
    `refused` too. Raises ValueError where `folder` has neither runs nor results that can be read.
    """
    folder, reasons = Path(folder), dict[str, None]()

    def leave_out(error: Exception) -> None:
        reasons[str(error).replace(f"{folder}{os.sep}", "")] = None
        refused(error)

    runs = sorted(read_results(folder, leave_out), key=_place)
    pictured = [run for run in runs if study(run) not in ASIDE]
    by_task = {task: [run for run in pictured if run.task == task] for task in TASKS}
    retrieval, decay = groups_of(by_task["retrieval"]), groups_of(by_task["decay"])
    nearest = [*_nearest(retrieval, TABLES), *_nearest(decay, TABLES)]
    listed = _listed(pictured, nearest)
    published = not run_folders(folder)
    from_runs = Trained.read(folder, leave_out) if published else trained(_nearest(decay, PICTURES), nearest, leave_out)
    environment = Environment(
        loader=PackageLoader("contextual_rnn.experiments.report", "."),
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
        samples=_published_samples(from_runs) if published else _samples(by_task["decay"]),
        **_calibrated(from_runs.calibration),
        playground=from_runs.playground,
        **_diagnosed(from_runs),
        **_studies(runs, from_runs.calibration),
        tables=[final_figures(task, rows) for task in by_task if (rows := [r for r in listed if r.task == task])],
        over_seeds=over_seeds(nearest),
        commands=[run.result["command"] if run.result else command(run.config, run.folder) for run in listed],
        left_out=_left_out(pictured, listed, [*retrieval, *decay]),
        reasons=list(reasons),
        versions=_versions(runs),
    )
    if not published:
        write_json(folder / SUMMARY, summary(runs))
        from_runs.write(folder)
    write_whole(folder / REPORT, html)
    return folder / REPORT


def _studies(runs: Sequence[Run], calibrated: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The findings, and the sections of the studies that are not pictures of curves."""
    mapped, short = runs_of(runs, MAP), runs_of(runs, MAP, INGREDIENTS, CONTROLS)
    cells = map_table(mapped)
    return {
        "in_short": in_short(runs),
        "findings": list(findings(runs, calibrated).values()),
        "map": _inline(map_figure(mapped), "map") if cells["rows"] else None,
        "map_table": [cells],
        "study_tables": [table for table in (ingredient_table(short), control_table(short)) if table],
        "table_1": [table for table in [table_1(runs_of(runs, TABLE_1))] if table],
    }


def _calibrated(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "calibration": _inline(figures.calibration_curves(rows), "calibration") if rows else None,
        "spread": _inline(figures.spread_curves(rows), "spread") if rows else None,
        "calibration_tables": [calibration_table(rows)] if rows else [],
        "calibration_finding": calibration_finding(rows) if rows else "",
    }


def _diagnosed(from_runs: Trained) -> dict[str, Any]:
    """The diagnoses; published ones have no pictures."""
    drawn = [_inline(figure, f"diagnosis-{index}") for index, figure in enumerate(from_runs.figures)]
    rows = from_runs.diagnostics
    table = {"title": "Losses under other states", "header": HEADER, "texts": 1}
    return {
        "diagnosed": [
            Picture(row["title"], row["caption"], svg) for row, svg in zip_longest(rows, drawn) if row is not None
        ],
        "diagnostics_tables": [{**table, "rows": [[row["title"], *row["row"]] for row in rows]}] if rows else [],
    }


def _pictures(groups: Sequence[Group], draw: Callable[[Sequence[Run]], Figure], name: str) -> list[Picture]:
    pictures, apart_in = [], differing(groups) if groups else []
    for index, group in enumerate(groups):
        settings = {option: f"{words(option)} {option_text(value)}" for option, value in group.settings.items()}
        apart = [settings[option] for option in apart_in if option in settings]
        title = ": ".join(filter(None, [STARTS.get(group.settings.get("start", "")), ", ".join(apart)]))
        shared = ", ".join(settings.values())
        caption = f"{_seeds(group)} {_unfinished(group)} {_diverged(group)} Shared settings: {shared}."
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
    texts = [f"Seeds: {several}; {how}, in bold the median of those that converged."] if several else []
    return " ".join(texts + ([f"One seed{which}: no interval, read as an illustration."] if single else []))


def _unfinished(group: Group) -> str:
    runs = [run for run in group.runs if run.result is None]
    return f"Unfinished: {_named(runs)}." if runs else ""


def _diverged(group: Group) -> str:
    runs = [run for run in group.runs if run.result is not None and not run.converged]
    return f"Diverged, and not in the median: {_named(runs)}." if runs else ""


def _named(runs: Sequence[Run]) -> str:
    names = [f"{run.config.state} seed {run.config.seed} ({epochs_of(run)})" for run in runs[:NAMED]]
    return ", ".join(names) + (f" and {len(runs) - NAMED:,} more" if len(runs) > NAMED else "")


def _nearest(groups: Sequence[Group], count: int) -> list[Group]:
    """At most `count` groups, those with the fewest options changed, in the given order."""
    nearest = sorted(range(len(groups)), key=lambda index: changed(groups[index].runs[0]))[:count]
    return [groups[index] for index in sorted(nearest)]


def _listed(runs: Sequence[Run], groups: Sequence[Group]) -> list[Run]:
    """All runs, or where they are more than ROWS, the first ROWS of those in `groups`."""
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


def _samples(runs: Sequence[Run]) -> Picture | None:
    """Figure 6."""
    run = normal_run(runs)
    if run is None:
        return None
    try:
        paths = sample_trajectories(
            run, initial=FIGURE_6_INITIAL, periods=FIGURE_6_PERIODS, num_samples=FIGURE_6_SAMPLES
        )
    except (ValueError, RuntimeError) as error:
        return Picture("", f"{source(run)} There are no trajectories to show: {error}", None)
    return _fans(paths, source(run))


def _fans(paths: Iterable[Tensor], caption: str) -> Picture:
    initial, periods = FIGURE_6_INITIAL, FIGURE_6_PERIODS
    truths = linear_cosine_decay(
        torch.full((len(periods),), initial, device="cpu"), torch.tensor(periods, device="cpu")
    )
    sampled, true = (dict(zip(periods, curves, strict=True)) for curves in (paths, truths))
    return Picture("", caption, _inline(figures.trajectory_fans(sampled, true, initial), "figure6"))


def _published_samples(from_runs: Trained) -> Picture | None:
    """Figure 6 from the playground's trajectories."""
    if from_runs.playground is None:
        return None
    try:
        paths = [trajectories(from_runs.playground, period, FIGURE_6_INITIAL) for period in FIGURE_6_PERIODS]
    except ValueError as error:
        return Picture("", f"There are no trajectories to show: {error}", None)
    return _fans(paths, from_runs.playground["source"])


def _place(run: Run) -> tuple[object, ...]:
    """A sort key for runs: by task, the authors' start first, then by what the tables show first."""
    config = run.config
    options = [str(getattr(config, name, "")) for name in ("timing", "leaves")]
    start = getattr(config, "start", "")
    return list(TASKS).index(run.task), start == "sound", *options, STATES.index(config.state), config.seed, run.folder


def _versions(runs: Sequence[Run]) -> list[str]:
    counts = Counter(
        ", ".join(f"{name} {version}" for name, version in run.result["versions"].items())
        for run in runs
        if run.result is not None
    )
    return [f"{versions} ({count} run{'s' * (count > 1)})" for versions, count in sorted(counts.items())]


def _inline(figure: Figure, name: str) -> Markup:
    """The figure as an element of the page, its ids made unique in the page by `name`."""
    _, tag, rest = figures.to_svg(figure, name).partition("<svg")
    broad = ' class="broad"' if figure.get_figwidth() > BROAD else ""
    return Markup(tag + broad + rest)

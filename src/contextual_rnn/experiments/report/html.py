"""One self-contained HTML file of every run below a folder: what was found, then the paper's figures and all tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config import Metric
from contextual_rnn.experiments.config.entry import DRAWINGS, Scale
from contextual_rnn.experiments.config.retrieval import STARTS
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report.data import Curve, Fans, Panel, Report, Section
from contextual_rnn.experiments.report.from_weights import Trained
from contextual_rnn.experiments.report.gather import gather
from contextual_rnn.experiments.report.glossary import glossary, ran, subject
from contextual_rnn.experiments.report.page import Drawing, Fold, folds_of, inline, macros, page
from contextual_rnn.experiments.report.tables import DIAGNOSIS
from contextual_rnn.experiments.runs.folder import Refused
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.stats.wording import words
from contextual_rnn.experiments.studies.calibration import calibration_table
from contextual_rnn.experiments.studies.gain_map import Map

REPORT, TEMPLATE = "report.html", "report.html.jinja"
# Beside the answer of `compare`, whose own report has the first name.
ANSWER, BESIDE_ANSWER = "answer.json", "runs.html"
TITLE = "Does a better initial state help?"
# The folds of report.html.jinja before and after those of the experiments.
BEFORE = {
    "words": "Words used here",
    "left_out": "Left out",
    "when": "When does it help?",
    "why": "What explains the gain?",
    "starts": "Under both starts",
}
AFTER = {
    "spread": "Can the spread be trusted?",
    "playground": "Playground",
    "mattered": "Did the initial state matter?",
    "table_1": "Networks of several sizes",
    "seeds": "Over seeds",
    "runs": "Every run",
    "commands": "The exact commands",
    "deviations": "Deviations from the paper and from its authors' code",
}
# What the calibration watches every epoch, with its axis.
SPREAD: dict[str, tuple[str, Scale]] = {
    "mean_scale": ("mean sigma of h(0)", "linear"),
    "smallest_scale": ("smallest sigma", "linear"),
    "trajectory_spread": ("deviation of x(t) over samples", "linear"),
    "coverage_two_deviations": ("truth within two deviations", "share"),
}


def write_report(folder: Path, refused: Refused = lambda error: None) -> Path:
    """Write report.html into `folder`, and its data as JSON; return its path.

    In the folder of a comparison, whose report has that name, it is runs.html.
    summary.json has medians and every seed's final metrics; where there are trained weights, calibration.json says how
    often the truth lies within the samples, diagnostics.json whether the initial state mattered, and playground.json
    has sampled trajectories. Unfinished runs are shown with the epochs they have. Of many groups of settings the page
    shows those nearest to the defaults and says so. A folder of published results, such as results/, gives the same
    page without training. A damaged file is left out, with the reason in the page; its error, which names it, goes to
    `refused` too. Raises ValueError where `folder` has neither runs nor results that can be read.
    """
    folder = Path(folder)
    path = folder / (BESIDE_ANSWER if (folder / ANSWER).exists() else REPORT)
    write_whole(path, render(gather(folder, refused)))
    return path


def render(report: Report) -> str:
    """The page: the answer and the figures that show it, then the folds."""
    data: dict[str, Any] = {
        "report": report,
        "map": _map(report.evidence.gains),
        "samples": _samples(report.fans),
        "calibration_tables": [calibration_table(report.trained.calibration)],
        **_spread(report.trained.calibration),
        **_diagnosed(report.trained),
        "defined": glossary(report),
        "ran": ran(report),
    }
    experiments = [_experiment(section, data) for section in report.sections]
    folds = [*folds_of(TEMPLATE, BEFORE, **data), *experiments, *folds_of(TEMPLATE, AFTER, **data)]
    headlines = [
        Drawing(inline(figures.learning_curve(panel), f"headline-{index}"), caption, label=f"{caption}, by epoch")
        for index, (caption, panel) in enumerate(report.headlines.items())
    ]
    return page(TITLE, subject(report), report.answer, [*headlines, *_samples(report.fans, "headline")][:2], folds)


def _experiment(section: Section, data: Mapping[str, Any]) -> Fold:
    name = section.entry.name
    rows = [
        _curves(f"{name}-{index}", picture.panels, picture.title or section.entry.title)
        for index, picture in enumerate(section.pictures)
    ]
    drawings = [Drawing(Markup((DRAWINGS / file).read_text("utf-8")), text) for file, text in section.entry.drawings]
    body = macros(TEMPLATE, **data).experiment(section, rows, drawings)
    return Fold(name, section.entry.title, body)


def _curves(name: str, panels: Sequence[Panel], title: str) -> list[Drawing]:
    """Learning curves of the runs that `title` names."""
    return [
        Drawing(inline(figures.learning_curve(panel), f"{name}-{index}"), text, label=f"{title}: {text} by epoch")
        for index, panel in enumerate(panels)
        for text in [words(panel.metric.name)]
    ]


def _map(gains: Map) -> list[Drawing]:
    """A figure for each start that was run."""
    starts = [start for start in STARTS if any(cell.start == start for cells in gains.values() for cell in cells)]
    return [
        Drawing(
            inline(figures.map_figure(gains, [start]), f"map-{start}"),
            STARTS[start],
            label=f"Gain in accuracy over the zero state by units, pairs and timing: {STARTS[start]}",
        )
        for start in starts
    ]


def _samples(fans: Fans | None, name: str = "figure6") -> list[Drawing]:
    """A figure for each period."""
    if fans is None:
        return []
    return [
        Drawing(
            inline(figures.trajectory_fans(fans._replace(paths={period: paths})), f"{name}-{period:g}"),
            f"Samples of the decay task with period {period:g}",
        )
        for period, paths in fans.paths.items()
    ]


def _spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Drawing]]:
    if not rows:
        return {"calibration": [], "watched": []}
    figure, label = figures.calibration_curves(rows), "Observed against nominal coverage of the samples"
    return {
        "calibration": [Drawing(inline(figure, "calibration"), "Calibration", label=label)],
        "watched": _curves("spread", watched(rows), "What sigma does"),
    }


def watched(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Panels of what the calibration watches every epoch, medians over seeds, a curve for each kind of loss."""
    return [
        Panel(
            Metric(name, "", scale, axis),
            [Curve(row["label"], "finished", dict(enumerate(row["epochs"].get(name, [])))) for row in rows],
        )
        for name, (axis, scale) in SPREAD.items()
    ]


def _diagnosed(trained: Trained) -> dict[str, Any]:
    """The diagnoses; published ones have no pictures."""
    pictures = [
        inline(figures.stacked(diagnosis.plot()), f"diagnosis-{index}")
        for index, diagnosis in enumerate(trained.diagnoses)
    ] or [Markup()] * len(trained.diagnostics)
    drawings = [
        Drawing(picture, row["title"], row["caption"], f"Losses by initial state, influence of h(0): {row['title']}")
        for picture, row in zip(pictures, trained.diagnostics, strict=True)
    ]
    table = Table("Losses under other states", DIAGNOSIS, [[row["title"], *row["row"]] for row in trained.diagnostics])
    return {"diagnosed": drawings, "diagnostics_tables": [table] if trained.diagnostics else []}

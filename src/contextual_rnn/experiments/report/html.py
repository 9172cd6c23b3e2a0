"""One self-contained HTML file of every run below a folder: the paper's figures, the final figures, the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config import Metric
from contextual_rnn.experiments.config.registry import Scale
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report.data import Curve, Panel, Picture, Report
from contextual_rnn.experiments.report.from_weights import Trained
from contextual_rnn.experiments.report.gather import gather
from contextual_rnn.experiments.report.tables import DIAGNOSIS
from contextual_rnn.experiments.runs.folder import Refused
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.studies.calibration import calibration_table

REPORT = "report.html"
# What the calibration watches every epoch, with its axis.
SPREAD: dict[str, tuple[str, Scale]] = {
    "mean_scale": ("mean sigma of h(0)", "linear"),
    "smallest_scale": ("smallest sigma", "linear"),
    "trajectory_spread": ("deviation of x(t) over samples", "linear"),
    "coverage_two_deviations": ("truth within two deviations", "share"),
}
DRAWINGS = Path(__file__).parent / "drawings"
BROAD = 6.0  # inches; on a phone such a figure keeps its size and scrolls inside its card


def write_report(folder: Path, refused: Refused = lambda error: None) -> Path:
    """Write report.html into `folder`, and its data as JSON; return the path of report.html.

    summary.json has medians and every seed's final metrics; where there are trained weights, calibration.json says how
    often the truth lies within the samples, diagnostics.json whether the initial state mattered, and playground.json
    has sampled trajectories. Unfinished runs are shown with the epochs they have. Of many groups of settings the page
    shows those nearest to the defaults and says so. A folder of published results, such as results/, gives the same
    page without training. A damaged file is left out, with the reason in the page; its error, which names it, goes to
    `refused` too. Raises ValueError where `folder` has neither runs nor results that can be read.
    """
    folder = Path(folder)
    write_whole(folder / REPORT, render(gather(folder, refused)))
    return folder / REPORT


def render(report: Report) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("contextual_rnn.experiments.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    rows, gains = report.trained.calibration, report.evidence.gains
    return environment.get_template("report.html.jinja").render(
        report=report,
        sections=[(section, _curves(section.entry.name, section.pictures)) for section in report.sections],
        drawing=lambda name: Markup((DRAWINGS / name).read_text("utf-8")),
        map=_inline(figures.map_figure(gains), "map") if gains else None,
        samples=_inline(figures.trajectory_fans(report.fans), "figure6") if report.fans else None,
        calibration=_inline(figures.calibration_curves(rows), "calibration") if rows else None,
        spread=_inline(figures.learning_curves(watched(rows)), "spread") if rows else None,
        calibration_tables=[calibration_table(rows)] if rows else [],
        **_diagnosed(report.trained),
    )


def _curves(name: str, pictures: Sequence[Picture]) -> list[Markup | None]:
    return [
        _inline(figures.learning_curves(picture.panels), f"{name}-{index}") if picture.panels else None
        for index, picture in enumerate(pictures)
    ]


def watched(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Panels of what the calibration watches every epoch, medians over seeds, a curve for each kind of loss."""
    return [
        Panel(Metric(name, "", scale, axis), [Curve(row["label"], "finished", _by_epoch(row, name)) for row in rows])
        for name, (axis, scale) in SPREAD.items()
    ]


def _by_epoch(row: Mapping[str, Any], name: str) -> dict[float, float]:
    return dict(enumerate(row["epochs"].get(name, [])))


def _diagnosed(trained: Trained) -> dict[str, Any]:
    """The diagnoses; published ones have no pictures."""
    drawn = [_inline(diagnosis.plot(), f"diagnosis-{index}") for index, diagnosis in enumerate(trained.diagnoses)]
    table = Table("Losses under other states", DIAGNOSIS, [[row["title"], *row["row"]] for row in trained.diagnostics])
    return {
        "diagnosed": list(zip_longest(trained.diagnostics, drawn)),
        "diagnostics_tables": [table] if trained.diagnostics else [],
    }


def _inline(figure: Figure, name: str) -> Markup:
    """The figure as an element of the page, its ids made unique in the page by `name`."""
    _, tag, rest = figures.to_svg(figure, name).partition("<svg")
    broad = ' class="broad"' if figure.get_figwidth() > BROAD else ""
    return Markup(tag + broad + rest)

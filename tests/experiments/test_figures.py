"""The paper's figures show the runs' own numbers; the drawings are drawn."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from contextual_rnn.experiments.compare.figures import steps_figure
from contextual_rnn.experiments.config import DecayConfig, Metric, RetrievalConfig, entry_of
from contextual_rnn.experiments.config.entry import DRAWINGS
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report.data import Curve, Fans, Panel
from contextual_rnn.experiments.report.gather import curves_of
from contextual_rnn.experiments.runs.folder import Run


def retrieval(state, accuracies, *, seed=0, finished=True):
    lines = [
        {"epoch": epoch, "validation_accuracy": value, "validation_log_likelihood": value - 2 if epoch else -9.0}
        for epoch, value in enumerate(accuracies)
    ]
    config = RetrievalConfig(state=state, seed=seed)
    return Run(Path(f"{state}{seed}"), "retrieval", config, lines, {"final": lines[-1]} if finished else None)


def decay(state, errors):
    lines = [{"epoch": epoch, "validation_squared_error": value} for epoch, value in enumerate(errors)]
    return Run(Path(state), "decay", DecayConfig(state=state), lines, {"final": lines[-1]})


def drawn(runs, place=0):
    """The learning curve of one metric of runs of one task."""
    metric = [metric for metric in entry_of(runs[0].config).metrics if metric.curve][place]
    return figures.learning_curve(Panel(metric, curves_of(runs, metric.name)))


def curves(axes, state):
    """(x, y, width) of the lines in a state's colour."""
    lines = [line for line in axes.get_lines() if line.get_color() == figures.COLOURS[state]]
    return [(list(line.get_xdata()), list(line.get_ydata()), line.get_linewidth()) for line in lines]


def names(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_figure_2_has_both_metrics_of_every_state():
    runs = [retrieval("zero", [0.1, 0.4]), retrieval("context", [0.1, 0.9])]
    figure = drawn(runs, 1)
    (right,), (left,) = drawn(runs).axes, figure.axes
    assert curves(left, "zero") == [([0, 1], [-9.0, -1.6], 1.8)]
    assert curves(right, "context") == [([0, 1], [0.1, 0.9], 1.8)]
    assert names(figure) == ["zero (2a)", "context (2c)"]
    assert -2 < left.get_ylim()[0] < -1.6, "epoch 0 does not squeeze the rest"


def test_several_seeds_are_thin_lines_and_a_median_of_the_finished():
    runs = [retrieval("free", [0.0, value], seed=seed) for seed, value in enumerate((0.2, 0.3, 0.7))]
    figure = drawn([*runs, retrieval("free", [0.9], seed=3, finished=False)])
    (right,) = figure.axes
    *thin, (epochs, medians, width) = curves(right, "free")
    assert [values[-1] for _, values, _ in thin] == [0.2, 0.3, 0.7, 0.9]
    assert (epochs, medians) == ([0, 1], [0.0, 0.3])
    assert all(other < width for _, _, other in thin)
    assert names(figure) == ["free (2b)"]


def test_many_seeds_are_a_band_of_deciles_and_a_median():
    right = drawn([retrieval("free", [0.1, seed / 100], seed=seed) for seed in range(31)]).axes[0]
    ((epochs, medians, _),) = curves(right, "free")
    assert (epochs, medians) == ([0, 1], pytest.approx([0.1, 0.15]))
    (band,) = right.collections
    assert sorted(set(band.get_paths()[0].vertices[:, 1].round(6).tolist())) == [0.03, 0.1, 0.27]


def test_a_state_of_somebody_else_has_a_colour_of_its_own():
    states = ["zero", "warm", "cold"]
    runs = [dataclasses.replace(retrieval("zero", [0.1, 0.2]), config=SimpleNamespace(state=state)) for state in states]
    panel = Panel(Metric("validation_accuracy", ""), curves_of(runs, "validation_accuracy"))
    (axes,) = figures.learning_curve(panel).axes
    assert len({line.get_color() for line in axes.get_lines()}) == 3
    assert [line.get_label() for line in axes.get_lines()] == ["zero (2a)", "cold", "warm"]


def test_figure_5_is_logarithmic_and_leaves_out_what_is_not_finite():
    figure = drawn([decay("zero", [1.0, 0.1]), decay("normal", [2.0, math.nan, 0.5, math.inf])])
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert curves(axes, "normal") == [([0, 2], [2.0, 0.5], 1.8)]
    assert names(figure) == ["zero (2a)", "normal (Eq. 4)"]


LONG = [f"batch size {size}, units 8, context units 4, samples per period 40, KL weight 0.0001" for size in (16, 32)]
WEIGHTS = [
    *(f"KL weight {weight}" for weight in (0.0001, 0.001, 0.01, 0.1)),
    "the paper's loss",
    "floor under sigma 0.1",
]


def learning(labels):
    return figures.learning_curve(
        Panel(Metric("error", ""), [Curve(label, "finished", {0: 1.0, 1: 0.5}) for label in labels])
    )


def calibrated(labels):
    return figures.calibration_curves([{"label": label, "levels": [0.5], "observed": [[0.4]]} for label in labels])


def by_step(labels):
    return steps_figure({label: [1.0, 0.5] for label in labels}, "error")


@pytest.mark.parametrize("draw", [learning, calibrated, by_step])
@pytest.mark.parametrize(("labels", "inches"), [("abcd", 0.5), (WEIGHTS, 1.0), (LONG, 1.2), (["one"], 0.3)])
def test_legends_fit_the_figure(draw, labels, inches):
    figure = draw(labels)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    box, (axes,) = legend.get_window_extent(), figure.axes
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert {" ".join(text.split()) for text in names(figure)} >= set(labels), "long ones are wrapped"
    assert box.height < inches * figure.dpi, "as many columns as fit"
    assert axes.get_window_extent().height > 2 * figure.dpi, "the panel keeps its size"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_figure_6_has_a_panel_a_period_with_samples_band_and_truth(count):
    periods = [0.5 + index for index in range(count)]
    samples = torch.arange(11.0)[:, None] + torch.arange(4.0)
    truth = torch.full((4,), 7.0)
    figure = figures.trajectory_fans(Fans(2.5, dict.fromkeys(periods, samples), dict.fromkeys(periods, truth)))
    assert [axes.get_title() for axes in figure.axes] == [f"T = {period:g}, x(0) = 2.5" for period in periods]
    for axes in figure.axes:
        assert [values for _, values, _ in curves(axes, "normal")] == samples.tolist()
        (band,) = axes.collections
        assert {tuple(point) for point in np.asarray(band.get_paths()[0].vertices) if point[0] == 0} == {
            (0.0, 1.0),
            (0.0, 9.0),
        }
        assert list(axes.get_lines()[-1].get_ydata()) == truth.tolist()
        assert axes.get_lines()[-1].get_linestyle() == "--"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["10th to 90th percentile", "11 samples", "true curve"]


def test_stacked_panels_stand_below_each_other():
    periods = {1.0: torch.ones(2, 3), 2.0: torch.ones(2, 3)}
    figure = figures.stacked(figures.trajectory_fans(Fans(2.5, periods, dict.fromkeys(periods, torch.ones(3)))))
    figure.draw_without_rendering()
    upper, lower = (axes.get_position() for axes in figure.axes)
    assert upper.y0 > lower.y1
    assert figure.get_figwidth() == figures.WIDTH


def test_refusals_name_the_argument():
    with pytest.raises(ValueError, match="paths: expected trajectories of one period or more, got none"):
        figures.trajectory_fans(Fans(3.0, {}, {}))


def test_svg_keeps_text_and_is_the_same_bytes_without_a_date():
    def svg():
        return figures.to_svg(drawn([retrieval("zero", [0.1, 0.4])]), "one")

    root = ElementTree.fromstring(svg())
    assert "validation accuracy" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert svg() == svg()
    assert not {"date", "creator"} & {element.tag.rpartition("}")[2] for element in root.iter()}


def test_svg_ids_begin_with_the_name_and_resolve():
    svg = figures.to_svg(drawn([retrieval("zero", [0.1, 0.4])]), "one")
    ids = re.findall(r'\bid="([^"]*)"', svg)
    uses = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert all(name.startswith("one-") for name in ids)
    assert {first or second for first, second in uses} <= set(ids)
    assert len(uses) > 5


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("retrieval", ["ψ", "FW", "g: one linear layer", "h(0)", "A(0)", "ReLU", "softmax", "?"]),
        ("decay", ["x(0), T", "g: ReLU", "softplus", "h(0), c(0)", "LSTM", "one linear unit", "δx(1)", "x(1)"]),
        ("decay_sequence", ["x(t)"]),
    ],
)
def test_drawings_name_every_part_of_the_papers(name, parts):
    root = ElementTree.parse(DRAWINGS / f"{name}.svg").getroot()
    text = " ".join(filter(None, (element.text for element in root.iter("{http://www.w3.org/2000/svg}text"))))
    assert not [part for part in parts if part not in text]
    assert name == "decay_sequence" or not re.search(r"\d\d", text), "runs have sizes of their own"

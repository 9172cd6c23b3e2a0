"""The paper's figures show the runs' own numbers; the drawings are drawn."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report import model_drawings as drawings
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


def curves(axes, state):
    """(x, y, width) of the lines in a state's colour."""
    lines = [line for line in axes.get_lines() if line.get_color() == figures.COLOURS[state]]
    return [(list(line.get_xdata()), list(line.get_ydata()), line.get_linewidth()) for line in lines]


def names(axes):
    return [text.get_text() for text in axes.texts]


def test_figure_2_has_both_metrics_of_every_state():
    left, right = figures.retrieval_curves([retrieval("zero", [0.1, 0.4]), retrieval("context", [0.1, 0.9])]).axes
    assert curves(left, "zero") == [([0, 1], [-9.0, -1.6], 1.8)]
    assert curves(right, "context") == [([0, 1], [0.1, 0.9], 1.8)]
    assert names(left) == names(right) == ["zero (2a)", "context (2c)"]
    assert -2 < left.get_ylim()[0] < -1.6, "epoch 0 does not squeeze the rest"


def test_several_seeds_are_thin_lines_and_a_median_of_the_finished():
    runs = [retrieval("free", [0.0, value], seed=seed) for seed, value in enumerate((0.2, 0.3, 0.7))]
    _, right = figures.retrieval_curves([*runs, retrieval("free", [0.9], seed=3, finished=False)]).axes
    *thin, (epochs, medians, width) = curves(right, "free")
    assert [values[-1] for _, values, _ in thin] == [0.2, 0.3, 0.7, 0.9]
    assert (epochs, medians) == ([0, 1], [0.0, 0.3])
    assert all(other < width for _, _, other in thin)
    assert names(right) == ["free (2b)"]


def test_many_seeds_are_a_band_of_deciles_and_a_median():
    right = figures.retrieval_curves([retrieval("free", [0.1, seed / 100], seed=seed) for seed in range(31)]).axes[1]
    ((epochs, medians, _),) = curves(right, "free")
    assert (epochs, medians) == ([0, 1], pytest.approx([0.1, 0.15]))
    (band,) = right.collections
    assert sorted(set(band.get_paths()[0].vertices[:, 1].round(6).tolist())) == [0.03, 0.1, 0.27]


def test_names_do_not_touch_and_stay_beside_the_panel():
    runs = [retrieval(state, [0.1, 0.99 + index / 1000]) for index, state in enumerate(figures.COLOURS)]
    figure = figures.retrieval_curves(runs)
    figure.draw_without_rendering()
    for axes in figure.axes:
        # An annotation's own extent includes its leader line.
        boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
        assert len(boxes) == 4
        assert all(0 <= text.xyann[1] <= 1 for text in axes.texts)
        assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))


def test_figure_4_is_the_papers():
    (axes,) = figures.decay_sequence().axes
    values = axes.get_lines()[0].get_ydata()
    assert len(values) == 101
    assert values[0] == pytest.approx(4 * 1.001)
    assert values[25] == pytest.approx(4 * 0.751)
    assert values[100] == pytest.approx(4 * 0.001)


def test_figure_5_is_logarithmic_and_leaves_out_what_is_not_finite():
    (axes,) = figures.decay_curves([decay("zero", [1.0, 0.1]), decay("normal", [2.0, math.nan, 0.5, math.inf])]).axes
    assert axes.get_yscale() == "log"
    assert curves(axes, "normal") == [([0, 2], [2.0, 0.5], 1.8)]
    assert sorted(names(axes)) == ["normal (Eq. 4)", "zero (2a)"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_figure_6_has_a_panel_a_period_with_samples_band_and_truth(count):
    periods = [0.5 + index for index in range(count)]
    samples = torch.arange(11.0)[:, None] + torch.arange(4.0)
    truth = torch.full((4,), 7.0)
    figure = figures.trajectory_fans(dict.fromkeys(periods, samples), dict.fromkeys(periods, truth), 2.5)
    assert [axes.get_title() for axes in figure.axes] == [f"T = {period:g}, x(0) = 2.5" for period in periods]
    for axes in figure.axes:
        assert [values for _, values, _ in curves(axes, "normal")] == samples.tolist()
        (band,) = axes.collections
        assert {tuple(point) for point in band.get_paths()[0].vertices if point[0] == 0} == {(0.0, 1.0), (0.0, 9.0)}
        assert list(axes.get_lines()[-1].get_ydata()) == truth.tolist()
        assert axes.get_lines()[-1].get_linestyle() == "--"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["10th to 90th percentile", "11 samples", "true curve"]


def test_refusals_name_the_argument():
    with pytest.raises(ValueError, match="runs: expected one run or more, got none"):
        figures.retrieval_curves([])
    with pytest.raises(ValueError, match="runs: expected runs of decay, got some of retrieval"):
        figures.decay_curves([retrieval("zero", [0.1])])
    with pytest.raises(ValueError, match="paths: expected trajectories of one period or more, got none"):
        figures.trajectory_fans({}, {}, 3.0)
    with pytest.raises(ValueError, match=r"truths: expected a true curve for each period, got none for \[2\.0\]"):
        figures.trajectory_fans({2.0: torch.zeros(1, 4)}, {}, 3.0)


def test_svg_keeps_text_and_is_the_same_bytes_without_a_date():
    def svg():
        return figures.to_svg(figures.retrieval_curves([retrieval("zero", [0.1, 0.4])]), "one")

    root = ElementTree.fromstring(svg())
    assert "validation accuracy" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert svg() == svg()
    assert not {"date", "creator"} & {element.tag.rpartition("}")[2] for element in root.iter()}


def test_svg_ids_begin_with_the_name_and_resolve():
    svg = figures.to_svg(figures.retrieval_curves([retrieval("zero", [0.1, 0.4])]), "one")
    ids = re.findall(r'\bid="([^"]*)"', svg)
    uses = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert all(name.startswith("one-") for name in ids)
    assert {first or second for first, second in uses} <= set(ids)
    assert len(uses) > 5


@pytest.mark.parametrize("draw", [drawings.retrieval_model, drawings.decay_model])
def test_drawings_stay_inside_and_their_texts_apart(draw):
    figure = draw()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) > 15
    for index, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_drawings_name_every_part_of_the_papers():
    def texts(figure):
        return " ".join(text.get_text() for text in figure.axes[0].texts)

    for part in ("ψ", "FW", "g: one linear layer", "h(0)", "A(0)", "100 ReLU", "softmax", "?", "50 units"):
        assert part in texts(drawings.retrieval_model())
    for part in ("x(0), T", "g: 50 ReLU", "softplus", "h(0), c(0)", "LSTM, 128", "one linear unit", "δx(1)", "x(2)"):
        assert part in texts(drawings.decay_model())

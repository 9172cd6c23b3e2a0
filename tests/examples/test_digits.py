"""The digits example runs in a small setting, and its models know of the label what they are told."""

import importlib
import json
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def digits(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("digits")


def test_runs_and_keeps_its_figures(digits, tmp_path):
    digits.main(digits.Options(quick=True, unit="row", seeds=2, out=tmp_path))
    evidence = json.loads((tmp_path / "digits-row.json").read_text())
    figures = evidence["figures"]
    assert set(figures) == {*digits.VARIANTS, "classifier on real held-out digits"}
    assert figures["classifier on real held-out digits"]["mean"] > 0.97
    for name in digits.VARIANTS:
        assert len(figures[name]["recognised"]["seeds"]) == 2
        assert figures[name]["recognised, shuffled labels"]["mean"] < 0.25
        assert 0 < figures[name]["nats per pixel"]["mean"] < 3.2
    assert (tmp_path / "digits-row.png").stat().st_size > 1000
    assert (tmp_path / "digits-row.gif").read_bytes().startswith(b"GIF")


@pytest.mark.parametrize("width", [1, 8])
def test_likelihood_depends_on_the_label_where_it_is_told_and_painting_repeats(digits, width):
    torch.manual_seed(0)
    images, labels = torch.randint(0, 17, (6, 64)), torch.arange(6)
    for name in digits.VARIANTS:
        model = digits.Painter(name, width, 8).eval()
        same = torch.equal(model.loss(images, labels), model.loss(images, labels + 1))
        assert same == (name in ("zero", "free")), name
        painted, again = (model.paint(labels, torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(painted, again)
        assert painted.shape == (6, 64)
        assert painted.min() >= 0
        assert painted.max() <= 16


def test_loss_never_sees_the_pixel_it_predicts(digits):
    torch.manual_seed(0)
    model = digits.Painter("context", 1, 8).eval()
    values = torch.randn(2, 64, 1, requires_grad=True)
    before = torch.nn.functional.pad(values[:, :-1], (0, 0, 1, 0))
    output, _ = model.rnn(model.inputs(before, torch.tensor([0, 1])), context=torch.tensor([0, 1]))
    output[:, 30].sum().backward()
    seen = values.grad.abs().sum((0, 2)) > 0
    assert seen[:30].all()
    assert not seen[30:].any()


def test_diversity_of_identical_images_is_zero(digits):
    labels = torch.arange(10).repeat_interleave(5)
    assert digits.diversity(torch.ones(50, 64), labels) == 0
    assert digits.diversity(torch.randn(50, 64), labels) > 5

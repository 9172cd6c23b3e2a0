"""The digits examples run in a small setting; the painter's likelihood is one, and its painting follows it."""

import importlib
import json

import pytest
import torch
from tests.examples.running import EXAMPLES, run
from torch.distributions import Categorical

WIDTHS = [1, 8]


@pytest.fixture
def digits(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("digits")


@pytest.fixture
def painter(digits):
    def make(name, width, units=8):
        torch.manual_seed(0)
        return digits.Painter(width, units, *digits.VARIANTS[name]).eval()

    return make


def test_runs_and_keeps_its_figures(digits, tmp_path):
    digits.main(digits.Options(quick=True, unit="row", out=tmp_path))
    evidence = json.loads((tmp_path / "digits-row.json").read_text())
    figures = evidence["figures"]
    assert figures["classifier on real held-out digits"]["mean"] > 0.97
    for name in digits.VARIANTS:
        assert len(figures[name]["recognised"]["seeds"]) == 2
        assert figures[name]["recognised, shuffled labels"]["mean"] < 0.25
        assert 0 < figures[name]["nats per pixel"]["mean"] < 3.2
    assert (tmp_path / "digits-row.png").stat().st_size > 1000
    assert (tmp_path / "digits-row.gif").read_bytes().startswith(b"GIF")


def test_missing_label_runs(tmp_path):
    figures = run("missing_label", tmp_path)
    assert {"label, guidance 0", "no label", "unknown label", "state learned from nines"} < set(figures)
    assert 1 <= figures["no label"]["kinds of digit"]["mean"] <= 10


@pytest.mark.parametrize("width", WIDTHS)
def test_likelihood_depends_on_the_label_where_it_is_told_and_painting_repeats(digits, painter, width):
    images, labels = torch.randint(0, 17, (6, 64)).float(), torch.arange(6)
    for name in digits.VARIANTS:
        model = painter(name, width)
        same = torch.equal(model.log_likelihood(images, labels), model.log_likelihood(images, labels + 1))
        assert same == (name in ("zero", "free")), name
        painted, again = (model.paint(labels, 6, torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(painted, again)
        assert painted.shape == (6, 64)
        assert painted.min() >= 0
        assert painted.max() <= 16


@pytest.mark.parametrize("width", WIDTHS)
def test_a_pixel_is_given_all_before_it_and_none_from_it_on(painter, width):
    """The likelihood is a product of conditionals: the logits of pixel k see pixels 0 to k - 1 and no other."""
    model, labels = painter("context", width), torch.tensor([0, 1])
    images = torch.rand(2, 64).mul(16).requires_grad_()
    output, _ = model.rnn(model.inputs(images, labels), context=labels)
    logits = model.logits(output, images.unflatten(1, (model.steps, width))).flatten(1, 2)
    (gradient,) = torch.autograd.grad(logits[:, 29].sum(), images)
    assert (gradient[:, :29] != 0).all()
    assert (gradient[:, 29:] == 0).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_painting_draws_from_the_likelihood(painter, width, monkeypatch):
    """The levels it draws from, along its own image, are those that the likelihood of that image is made of."""
    model, labels, drawn = painter("context", width), torch.arange(3), []
    multinomial = torch.multinomial

    def watched(levels, count, generator):
        drawn.append((levels, level := multinomial(levels, count, generator=generator)))
        return level

    monkeypatch.setattr(torch, "multinomial", watched)
    image = model.paint(labels, 3, torch.Generator().manual_seed(0))
    assert torch.equal(image, torch.cat([level for _, level in drawn], 1).float())
    total = sum(Categorical(probs=levels).log_prob(level[:, 0]) for levels, level in drawn)
    torch.testing.assert_close(model.log_likelihood(image, labels), total)


def test_many_draws_bound_tighter_than_one(painter):
    images, labels = torch.randint(0, 17, (6, 64)).float(), torch.arange(6)
    many, one = painter("normal", 8).bounds(images, labels, 8, torch.Generator().manual_seed(0))
    assert many < one
    many, one = painter("context", 8).bounds(images, labels, 8, torch.Generator().manual_seed(0))
    assert many == pytest.approx(one, abs=1e-6)


def test_a_new_state_leaves_the_network_as_it_was(digits, painter):
    missing = importlib.import_module("missing_label")
    model, _ = missing.painter(missing.Options(units=8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = missing.with_new_state(model.eval(), torch.randint(0, 17, (5, 64)).float(), 3, "")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = {name: value for name, value in tuned.state_dict().items() if "initial_state" not in name}
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert not torch.equal(tuned.rnn.initial_state()[0], model.rnn.initial_state(None)[0])


def test_diversity_of_identical_images_is_zero(digits):
    labels = torch.arange(10).repeat_interleave(5)
    assert digits.diversity(torch.ones(50, 64), labels) == 0
    assert digits.diversity(torch.randn(50, 64), labels) > 5

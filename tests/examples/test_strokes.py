"""The example runs as a user runs it, in its small setting; its drawings are the characters', its likelihood is one."""

import importlib
import sys

import numpy
import pytest
import torch
from tests.examples.running import EXAMPLES, run
from torch.distributions import Categorical, Normal


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("strokes", tmp_path)
    assert figures["classifier on real held-out drawings"]["mean"] > 0.85
    for name in ("normal", "label at every step", "zero"):
        assert len(figures[name]["recognised"]["seeds"]) == 2
        assert 0 <= figures[name]["recognised"]["mean"] < 0.3, "hardly trained"
        assert -2 < figures[name]["nats a step"]["mean"] < 6
    difference = figures["nats a step, normal less label at every step"]["seeds"]
    ours, theirs = (figures[name]["nats a step"]["seeds"] for name in ("normal", "label at every step"))
    assert difference == pytest.approx([a - b for a, b in zip(ours, theirs, strict=True)])


@pytest.fixture
def strokes(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("strokes")
    for name in ("strokes", "strokes_data", "strokes_model"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(strokes):
    return importlib.import_module("strokes_data")


@pytest.fixture
def writer(strokes):
    def make(name, units=8):
        torch.manual_seed(0)
        model = strokes.Writer(units, *strokes.VARIANTS[name]).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return model

    return make


def test_drawings_are_those_of_the_package(data):
    drawn, lengths, labels = data.drawings(quick=True)
    assert labels.unique().tolist() == list(range(len(data.LABELS)))
    real = torch.arange(drawn.shape[1]) < lengths[:, None]
    assert torch.equal((drawn[..., 4] == data.STOP) & real, torch.arange(drawn.shape[1]) == lengths[:, None] - 1)
    starts = ((drawn[..., 4] == data.JUMP) & real).sum(1)
    assert starts.tolist() == [list(data.LABELS.values())[label][1] for label in labels]
    torch.testing.assert_close((drawn[..., :2] * real[..., None]).cumsum(1), drawn[..., 2:4], atol=1e-5, rtol=0)
    # The hill is written in this order: the middle from the top down, the left and the bottom, the right.
    hill = drawn[labels == list(data.LABELS).index("山")]
    middle, right = hill[:, 0, 2:4], hill[torch.arange(len(hill)), lengths[labels == 11] - 1, 2:4]
    assert (middle[:, 1] > 0.2).all()
    assert (right[:, 0] > 0.4).all()


def test_movements_by_hand(data):
    path = data.flattened("M10,10c0,10,0,20,0,30c10,0,20,0,30,0")  # down, then to the right
    assert path[[0, 12, 24]].tolist() == [[10, -10], [10, -40], [40, -40]]
    assert numpy.abs(numpy.diff(path, axis=0)[:, 0] * numpy.diff(path, axis=0)[:, 1]).max() < 1e-9
    steps = data.movements([path, path[:13]])
    assert steps[0].tolist() == pytest.approx([-1, 1, -1, 1, data.JUMP])
    first = steps[: int((steps[:, 4] == data.JUMP).nonzero()[1])]
    assert first[-1, 2:4].tolist() == pytest.approx([1, -1])
    # No point on the second line is left out, and all are equally far along: a corner may be cut.
    assert first[1:, :2].norm(dim=1).max() == pytest.approx(4 / round(4 / data.SPACING), rel=1e-4)
    assert steps[-1].tolist() == pytest.approx([0, 0, -1, -1, data.STOP])


def test_a_picture_has_ink_where_the_pen_draws(data):
    jump, line = [-1.0, 0.0, -1.0, 0.0, data.JUMP], [2.0, 0.0, 1.0, 0.0, data.DRAW]
    away, stop = [-1.0, 1.0, 0.0, 1.0, data.JUMP], [0.0, 0.0, 0.0, 1.0, data.STOP]
    picture = data.pictures(torch.tensor([[jump, line, away, stop]])).view(data.SIDE, data.SIDE)
    assert torch.equal(picture, picture.flip(0))
    assert picture[7, 2:-2].min() > 0.5
    assert picture[:4].max() < 1e-3
    rising = data.pictures(torch.tensor([[jump, [2.0, 1.0, 1.0, 1.0, data.DRAW]]])).view(data.SIDE, data.SIDE)
    assert rising[1, 14] > 0.5 > rising[1, 1]


def test_the_likelihood_is_a_mixture_of_normals_and_ignores_padding(data, writer):
    model = writer("normal")
    drawn, lengths, labels = (part[::60] for part in data.drawings(quick=True))
    before = torch.cat([torch.tensor([[[0.0, 0, 0, 0, data.STOP]]]).expand(len(drawn), 1, 5), drawn[:, :-1]], 1)
    output, _ = model.rnn(model.inputs(before, None), context=labels)
    by_hand = []
    for row in range(len(drawn)):
        nats = torch.zeros(())
        for t in range(int(lengths[row])):
            kind = int(drawn[row, t, 4])
            nats = nats + Categorical(logits=model.kind(output[row, t])).log_prob(torch.tensor(kind))
            if kind != data.STOP:
                parts = model.movement(output[row, t]).view(2, 8, 5)[kind]
                scale = 0.01 + torch.nn.functional.softplus(parts[:, 3:] - 2)
                each = Normal(parts[:, 1:3], scale).log_prob(drawn[row, t, :2]).sum(1)
                nats = nats + (parts[:, 0].log_softmax(0) + each).logsumexp(0)
        by_hand.append(nats)
    found = model.log_likelihood(drawn, lengths, labels)
    torch.testing.assert_close(found, torch.stack(by_hand), rtol=1e-4, atol=1e-3)
    longer = torch.cat([drawn, torch.full((len(drawn), 3, 5), 1.0)], 1)
    torch.testing.assert_close(model.log_likelihood(longer, lengths, labels), found)


@pytest.mark.parametrize("name", ["normal", "label at every step", "zero"])
def test_drawing_draws_from_the_likelihood_and_repeats(data, writer, name):
    """Log-probabilities of what is drawn are those of the likelihood from the same states; the label counts."""
    model, labels = writer(name), torch.arange(16)
    shares = torch.nn.functional.one_hot(labels, 16)
    hx = (torch.randn(1, 16, 8), torch.randn(1, 16, 8))
    made = model.draw(shares, torch.Generator().manual_seed(0), hx=hx)
    again = model.draw(shares, torch.Generator().manual_seed(0), hx=hx)
    assert torch.equal(made.values, again.values)
    assert made.lengths.unique().numel() > 1, "drawings end by themselves"
    drawn, lengths = made.values[:, 0], made.lengths[:, 0]
    assert torch.equal(drawn[torch.arange(16), lengths - 1, 4] == data.STOP, lengths < 60)
    with torch.no_grad():
        likelihood = model.log_likelihood(drawn, lengths, labels, hx)
        torch.testing.assert_close(made.log_probs.sum((1, 2)), likelihood, rtol=1e-4, atol=1e-3)
        other = model.log_likelihood(drawn, lengths, labels.flip(0), None)
        assert torch.allclose(model.log_likelihood(drawn, lengths, labels, None), other) == (name == "zero")


def test_a_low_temperature_has_less_spread(writer):
    model, labels = writer("zero"), torch.zeros(400, dtype=torch.int64)
    shares = torch.nn.functional.one_hot(labels, 16)
    firsts = [
        model.draw(shares, torch.Generator().manual_seed(0), labels, temperature=temperature).values[:, 0, 0, :2]
        for temperature in (1.0, 0.01)
    ]
    spread = [first.std(0).sum() for first in firsts]
    assert spread[1] < 0.7 * spread[0]
    kinds = model.kinds(torch.randn(50, 8), 0.01).probs.max(1).values
    assert kinds.median() > 0.99


def test_many_draws_bound_tighter_than_one(data, writer):
    held_out = [part[::60] for part in data.drawings(quick=True)]
    many, one = (writer("normal").bound(*held_out, draws, torch.Generator().manual_seed(0)) for draws in (8, 1))
    assert many < one
    assert writer("zero").bound(*held_out, 1, torch.Generator()) == pytest.approx(
        writer("zero").bound(*held_out, 3, torch.Generator()), abs=1e-5
    )

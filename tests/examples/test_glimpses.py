"""The example in its small setting; images whose digits lie where they are said to; crops that see them there."""

import importlib

import pytest
import torch
from tests.examples.running import EXAMPLES, run


@pytest.fixture
def images(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("glimpse_images")


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("glimpses", tmp_path)
    assert len(figures) == 4
    for found in figures.values():
        assert 0 <= found["whole images"]["mean"] <= found["labels"]["mean"] <= 1
        assert len(found["labels"]["seeds"]) == 2


def test_a_crop_around_a_digits_centre_is_the_digit_and_they_come_from_left_to_right(images):
    digits = torch.rand(20, images.DIGIT, images.DIGIT, generator=torch.Generator().manual_seed(0))
    made, labels, centres = images.scatter(digits, torch.arange(20), 50, torch.Generator().manual_seed(1))
    assert centres[..., 0].diff(dim=1).min() >= 2 * images.DIGIT / images.IMAGE - 1e-6, "none hides another"
    for number in range(images.DIGITS):
        torch.testing.assert_close(images.crop(made, centres[:, number]), digits[labels[:, number]].flatten(1))
    torch.testing.assert_close(made.sum((1, 2)), digits[labels].sum((1, 2, 3)))


def test_what_lies_outside_the_image_is_empty_and_a_place_has_a_gradient(images):
    image, corner = torch.ones(1, images.IMAGE, images.IMAGE), torch.tensor([[-1.0, -1.0]], requires_grad=True)
    glimpse = images.crop(image, corner).unflatten(1, (images.DIGIT, images.DIGIT))
    half = images.DIGIT // 2
    torch.testing.assert_close(glimpse[0, half:, half:], torch.ones(half, half))
    assert glimpse[0, :half].eq(0).all()
    glimpse = images.crop(image, corner + 0.5 / images.IMAGE)  # a quarter of a pixel
    glimpse.sum().backward()
    assert (corner.grad > 0).all(), "the image lies to the right and below"


@pytest.mark.parametrize("name", ["zero", "coarse view sets the state", "coarse view at every step"])
def test_only_a_coarse_view_in_the_state_directs_the_first_glimpse(name, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    glimpses = importlib.import_module("glimpses")
    torch.manual_seed(0)
    model = glimpses.Reader(*glimpses.VARIANTS[name], 16)
    with torch.no_grad():
        _, places = model(torch.rand(4, 32, 32))
    same = torch.equal(places[:, 0], places[:1, 0].expand(4, 2))
    assert same == (name != "coarse view sets the state")
    assert not torch.equal(places[:, 1], places[:1, 1].expand(4, 2))

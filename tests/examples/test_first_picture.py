"""The picture of the README is drawn from a trained model."""

import importlib

import pytest
import torch
from tests.examples.running import EXAMPLES


@pytest.fixture
def first_picture(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("first_picture")


def test_it_is_drawn(first_picture, tmp_path):
    first_picture.main(first_picture.Options(quick=True, out=tmp_path))
    assert (tmp_path / "first-picture.png").stat().st_size > 10_000


def test_the_plane_keeps_the_largest_distances(first_picture):
    directions = torch.linalg.qr(torch.randn(9, 2))[0].T
    states = torch.randn(3, 5, 2) @ directions + torch.randn(9)
    points = first_picture.in_the_plane(states)
    torch.testing.assert_close(torch.pdist(points.flatten(0, 1)), torch.pdist(states.flatten(0, 1)), rtol=0, atol=1e-5)
    first, _, last = points.mean(1)
    torch.testing.assert_close(first[0], last[0], rtol=0, atol=1e-5)
    assert first[1] > last[1]

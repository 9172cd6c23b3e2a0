"""Paths between two contexts, latent vectors or states."""

import math

import pytest
import torch
from tests.networks import SPECS, make

from contextual_rnn import Leaf, StateSpec, interpolate

B, POINTS = 3, 5


def test_linear_paths_have_equal_steps_and_both_ends():
    start, end = torch.randn(B, 4, 2), torch.randn(B, 4, 2)
    path = interpolate(start, end, POINTS).view(B, POINTS, 4, 2)
    for p in range(POINTS):
        torch.testing.assert_close(path[:, p], start + p / 4 * (end - start))
    assert torch.equal(path[:, 0], start)
    assert torch.equal(path[:, -1], end)
    assert interpolate(start[:, 0, 0], end[:, 0, 0], 2).shape == (2 * B,)


def test_spherical_paths_turn_by_equal_angles_and_keep_the_length():
    start, end = (torch.nn.functional.normalize(torch.randn(B, 6).double(), dim=1) * 3 for _ in range(2))
    path = interpolate(start, end, POINTS, spherical=True).view(B, POINTS, 6)
    torch.testing.assert_close(path.norm(dim=-1), torch.full((B, POINTS), 3.0).double())
    whole = ((start * end).sum(-1) / 9).acos()
    between = ((path[:, 1:] * path[:, :-1]).sum(-1) / 9).acos()
    torch.testing.assert_close(between, (whole / (POINTS - 1))[:, None].expand(B, POINTS - 1))
    torch.testing.assert_close(path[:, -1], end)


@pytest.mark.parametrize("end", [1.0, 2.0, -1.0, 0.0])
def test_a_spherical_path_without_an_angle_is_linear(end):
    start = torch.tensor([[3.0, 4.0]]).double()
    path = interpolate(start, end * start, 3, spherical=True)
    torch.testing.assert_close(path, interpolate(start, end * start, 3))


def test_a_quarter_turn():
    path = interpolate(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 3, spherical=True)
    torch.testing.assert_close(path[1], torch.full((2,), math.sqrt(2)))


@pytest.mark.parametrize("lengths", [(1e-20, 1.0), (1e-200, 1e-200), (1e-310, 1.0), (1e200, 1e200)])
def test_the_angle_is_that_of_vectors_of_any_length(lengths):
    """Squares of small numbers are 0, those of large ones infinity."""
    angle, weight = math.pi / 3, torch.linspace(0, 1, POINTS).double()[:, None]
    start = lengths[0] * torch.tensor([[1.0, 0.0]]).double()
    end = lengths[1] * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    path = interpolate(start, end, POINTS, spherical=True)
    expected = (((1 - weight) * angle).sin() * start + (weight * angle).sin() * end) / math.sin(angle)
    torch.testing.assert_close(path, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", SPECS)
@pytest.mark.parametrize("spherical", [True, False])
def test_states_leaf_by_leaf(case, spherical):
    _, spec = make(case)
    start, end = ({leaf.name: torch.randn(B, *leaf.shape) for leaf in spec} for _ in range(2))
    path = spec.unpack(interpolate(spec.pack(start), spec.pack(end), POINTS, spec=spec, spherical=spherical))
    for leaf in spec:
        expected = interpolate(start[leaf.name], end[leaf.name], POINTS, spherical=spherical)
        torch.testing.assert_close(path[leaf.name], expected)


ONE = torch.zeros(1, 2)
BAD_CALLS = {
    "num_points: expected an int of at least 2, got 1": lambda: interpolate(ONE, ONE, 1),
    "start: expected a floating-point tensor": lambda: interpolate(ONE.long(), ONE, 2),
    "end: expected a tensor, got int": lambda: interpolate(ONE, 3, 2),
    r"end: expected the shape of start, \(1, 2\), got \(2, 2\)": lambda: interpolate(ONE, ONE.expand(2, 2), 2),
    "end: expected torch.float32 on cpu, as start, got torch.float64": lambda: interpolate(ONE, ONE.double(), 2),
    "spec: expected a StateSpec or None, got str": lambda: interpolate(ONE, ONE, 2, spec="gru"),
    "spherical: expected True or False": lambda: interpolate(ONE, ONE, 2, spherical=1),
    "start: expected leaf 'h' with a batch": lambda: interpolate(
        torch.zeros(2, 5), torch.zeros(2, 5), 2, spec=make("gru")[1]
    ),
    "start: expected leaf 'count' of floats of at least 16 bits, got torch.int64": lambda: interpolate(
        (ONE, ONE.long()),
        (ONE, ONE.long()),
        2,
        spec=StateSpec((Leaf("h", (2,)), Leaf("count", (2,), dtype=torch.int64))),
    ),
}


@pytest.mark.parametrize("words", BAD_CALLS)
def test_bad_calls_are_refused(words):
    with pytest.raises((ValueError, TypeError), match=f"^{words}"):
        BAD_CALLS[words]()


def test_vectors_without_numbers_and_more_points_than_memory_has():
    for shape in ((3, 0), (0, 3), (0,)):
        start = torch.zeros(shape)
        assert interpolate(start, start, 4).shape == (4 * shape[0], *shape[1:])
    with pytest.raises(ValueError, match="num_points, start: expected a product that fits in memory"):
        interpolate(torch.zeros(2, 3), torch.ones(2, 3), 2**60)

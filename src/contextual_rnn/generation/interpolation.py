"""Paths between two states, contexts or latent vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import check_elements, check_flag, check_size
from contextual_rnn._precision import wide
from contextual_rnn._tensors import FLOATS, check_floats
from contextual_rnn.spec.spec import StateSpec


def interpolate(
    start: Any, end: Any, num_points: int, *, spec: StateSpec | None = None, spherical: bool = False
) -> Any:
    """`num_points` points on the path from `start` to `end`, both ends among them.

        linear:     x(w) = (1 - w) start + w end
        spherical:  x(w) = (sin((1 - w) a) start + sin(w a) end) / sin(a),  a the angle between start and end

    with w from 0 to 1 in equal steps. `start` and `end` are tensors of floats (B, ...), such as contexts or latent
    vectors, or states of B rows with the `spec` of their network. Returns what they are, of B * num_points rows: row
    b * num_points + p is point p of row b, ready as the context or the `hx` of `generate`. The spherical path keeps
    the length of vectors of one length, as draws of a normal distribution in many dimensions nearly are; each leaf of
    a state has its own angle. It is linear where
    there is no angle, or one of zero or a half turn.

    Raises ValueError or TypeError for a start and an end of different shapes, dtypes or devices, for what is no tensor
    of floats or no state of `spec`, and a num_points that is no int of at least 2.
    Source: spherical interpolation is Shoemake's (1985).
    """
    num_points = check_size("num_points", num_points, 2)
    check_flag("spherical", spherical)
    if spec is None:
        return _path(start, end, num_points, spherical)
    if not isinstance(spec, StateSpec):
        raise TypeError(f"spec: expected a StateSpec or None, got {type(spec).__name__}")
    starts, ends = spec.unpack(start, "start"), spec.unpack(end, "end")
    for leaf in spec:
        if starts[leaf.name].ndim == len(leaf.shape):
            raise ValueError(f"start: expected leaf {leaf.name!r} with a batch, got one example")
        if (dtype := starts[leaf.name].dtype) not in FLOATS:
            raise TypeError(f"start: expected leaf {leaf.name!r} of floats of at least 16 bits, got {dtype}")
    return spec.pack({name: _path(tensor, ends[name], num_points, spherical) for name, tensor in starts.items()})


def _path(start: Any, end: Any, num_points: int, spherical: bool) -> Tensor:
    check_floats("start", start)
    check_floats("end", end)
    if start.ndim < 1 or start.shape != end.shape:
        raise ValueError(f"end: expected the shape of start, {tuple(start.shape)}, got {tuple(end.shape)}")
    if (start.dtype, start.device) != (end.dtype, end.device):
        expected, received = (f"{tensor.dtype} on {tensor.device}" for tensor in (start, end))
        raise ValueError(f"end: expected {expected}, as start, got {received}")
    check_elements(num_points=num_points, start=start.numel())
    first, last = (wide(tensor).flatten(1) if tensor.ndim > 1 else wide(tensor)[:, None] for tensor in (start, end))
    weight = torch.linspace(0, 1, num_points, dtype=first.dtype, device=first.device)[:, None]
    shares = _spherical(first, last, weight) if spherical else (1 - weight, weight)
    points = shares[0] * first[:, None] + shares[1] * last[:, None]
    return points.to(start.dtype).reshape(start.shape[0] * num_points, *start.shape[1:])


def _spherical(first: Tensor, last: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of both ends, (B, P, 1)."""
    unit, other = (_unit(vector) for vector in (first, last))
    # Twice the arc tangent of half differences: acos would lose half of the digits near 0.
    angle = 2 * torch.atan2((unit - other).norm(dim=1), (unit + other).norm(dim=1))[:, None, None]
    sine = angle.sin()
    no_angle = ((first == 0).all(1) | (last == 0).all(1))[:, None, None]
    straight = no_angle | (sine < torch.finfo(first.dtype).eps ** 0.5)
    sine = torch.where(straight, torch.ones_like(sine), sine)
    shares = (((1 - weight) * angle).sin() / sine, (weight * angle).sin() / sine)
    return torch.where(straight, 1 - weight, shares[0]), torch.where(straight, weight, shares[1])


def _unit(vector: Tensor) -> Tensor:
    """Vectors of length 1. The sum of absolute values first: squares of small and large numbers are 0 and infinity."""
    near = torch.nn.functional.normalize(vector, p=1, dim=1, eps=torch.finfo(vector.dtype).tiny)
    return torch.nn.functional.normalize(near, dim=1)

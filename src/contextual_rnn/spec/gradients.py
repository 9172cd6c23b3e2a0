"""Gradients of a network by its state, and whether they are its derivatives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from contextual_rnn._precision import is_narrow
from contextual_rnn.spec.networks import spec_of
from contextual_rnn.spec.trial import Trial

# Of a central difference: its own error falls with the square of a step, that of rounding grows with its inverse. A
# network may compute a part in float32 or have a kink nearby, and a wrong gradient agrees with none of them.
STEPS = (1e-6, 1e-4, 1e-2)
TOLERANCE = 1e-3  # of the norm of the gradient: what float32 leaves of a step of 1e-2


def with_gradients(trial: Trial, leaves: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The leaves of floats, which get gradients, and the results of a run from them."""
    given = {leaf.name: leaves[leaf.name].clone().requires_grad_() for leaf in trial.spec.floats}
    return given, trial.tensors(trial.run(trial.state({**leaves, **given})))


def gradients_of(leaves: Mapping[str, Tensor], results: list[Tensor]) -> dict[str, Tensor | None]:
    """Gradients under random cotangents on the output and on the final state."""
    outputs = {number: tensor for number, tensor in enumerate(results) if tensor.requires_grad}
    if not outputs or not leaves:  # a state may be of counters alone
        return dict.fromkeys(leaves)
    cotangents = [_random(number, tensor) for number, tensor in outputs.items()]
    gradients = torch.autograd.grad(list(outputs.values()), list(leaves.values()), cotangents, allow_unused=True)
    return dict(zip(leaves, gradients, strict=True))


def difference_from_finite(trial: Trial) -> str | None:
    """Where a gradient is not the derivative, both in words: along a random direction of one leaf at a time."""
    trial = _in_float64(trial)
    leaves, results = with_gradients(trial, trial.leaves)
    if any(is_narrow(tensor.dtype) for tensor in (*leaves.values(), *results)):
        return None  # rounding hides the difference
    differentiable = [number for number, tensor in enumerate(results) if tensor.requires_grad]
    for name, gradient in gradients_of(leaves, results).items():
        if gradient is None:
            continue
        direction = _direction(trial, name)
        ours = float((gradient.conj() * direction).real.sum())
        scale = float((gradient.conj() * direction).abs().square().sum().sqrt())
        theirs = [_finite_difference(trial, name, direction, step, differentiable) for step in STEPS]
        nearest = min(theirs, key=lambda slope: abs(slope - ours))
        if not abs(nearest - ours) <= max(TOLERANCE, trial.tolerance or 0.0) * scale:
            return f"{ours:.6g} and {nearest:.6g} along one direction of leaf {name!r}"
    return None


def _finite_difference(trial: Trial, name: str, direction: Tensor, step: float, differentiable: list[int]) -> float:
    """The central difference of the results, weighted by their cotangents, along a direction of a leaf."""
    with torch.no_grad():
        ahead, behind = (
            trial.tensors(trial.run(trial.state({**trial.leaves, name: trial.leaves[name] + sign * step * direction})))
            for sign in (1, -1)
        )
    slopes = ((ahead[number] - behind[number]) * _random(number, ahead[number]).conj() for number in differentiable)
    return sum(float(slope.real.double().sum()) for slope in slopes) / (2 * step)


def _direction(trial: Trial, name: str) -> Tensor:
    """Random numbers along which a leaf is moved, small where it is near a limit of its domain."""
    leaf = trial.leaves[name]
    direction = _random(100, leaf)
    for bounded, domain in trial.spec.bounded:
        if bounded.name == name:
            direction = direction * domain.log_slope(domain.unconstrain(leaf)).exp()
    return direction


def _random(seed: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(3 + seed)
    numbers = torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu")
    return numbers.to(like.device, like.dtype)


def _in_float64(trial: Trial) -> Trial:
    """The trial in float64, or as it is where the network cannot be copied or run so."""
    try:
        network = copy.deepcopy(trial.network).double()
        spec = replace(spec_of(network), dtype=torch.float64)
        precise = Trial(network, spec, trial.inputs.double(), trial.tolerance)
        precise.tensors(precise.run(precise.state()))
    except Exception:
        return trial
    return precise

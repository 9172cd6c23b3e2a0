"""The data of the report's playground: trajectories sampled on a grid of periods and initial values, as text."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.studies.trajectories import checked_paths, generating_model
from contextual_rnn.experiments.tasks.decay import (
    ALPHA,
    BETA,
    INITIAL_RANGE,
    STEPS,
    TOTAL_TIME,
    TRAINING_PERIODS,
    VALIDATION_PERIODS,
    DecayModel,
)
from contextual_rnn.experiments.training.seeding import generator_for

PERIODS = torch.linspace(0.5, 4.5, 33, device="cpu")  # every eighth
INITIALS = torch.linspace(*INITIAL_RANGE, 5, device="cpu")  # every half
SHOWN, SAMPLES = 10, 100  # trajectories drawn, and those that the band is taken over


@torch.no_grad()
def playground(run: Run) -> dict[str, Any]:
    """The trained model's trajectories, in the form that the page's script reads.

    `curves`, 16-bit little-endian numbers in base64, are for each period, each initial value: the mean over `SAMPLES`
    trajectories, their standard deviation, and `SHOWN` of them, each t = 1 .. 25; a number n stands for
    low + n * step. Every point of the grid uses the same draws, so that only the condition changes.
    Raises ValueError for a run without weights, with damaged ones, or of another task.
    """
    model = generating_model(run)
    numbers, low, step = to_integers(torch.stack([_curves(run, model, period.item()) for period in PERIODS]))
    return {
        "periods": PERIODS.tolist(),
        "initials": INITIALS.tolist(),
        "trained": TRAINING_PERIODS,
        "held_out": VALIDATION_PERIODS,
        "samples": SHOWN,
        "band_samples": SAMPLES,
        "steps": STEPS,
        "alpha": ALPHA,
        "beta": BETA,
        "total_time": TOTAL_TIME,
        "low": low,
        "step": step,
        "curves": numbers,
    }


def _curves(run: Run, model: DecayModel, period: float) -> Tensor:
    """(initial values, 2 + SHOWN, 25) for one period."""
    curves = []
    for initial in INITIALS:
        paths = model.free_run(
            initial[None] * (1 + ALPHA + BETA),  # x(0) of the curve that is asked for
            torch.tensor([period], device="cpu"),
            num_samples=SAMPLES,
            sample=True,
            generator=generator_for("playground"),
        )[0, :, 1:]
        checked_paths(paths, run)
        curves.append(torch.cat([paths.mean(0)[None], paths.std(0)[None], paths[:SHOWN]]))
    return torch.stack(curves)


def trajectories(data: dict[str, Any], period: float, initial: float) -> Tensor:
    """(SHOWN, 26) sampled trajectories at a point of the grid of `playground`; raises ValueError for another."""
    if period not in data["periods"] or initial not in data["initials"]:
        raise ValueError(f"period, initial: expected a point of the grid, got {period}, {initial}")
    raw = bytearray(base64.b64decode(data["curves"]))
    numbers = torch.frombuffer(raw, dtype=torch.uint16).to(torch.float64)
    grid = numbers.view(len(data["periods"]), len(data["initials"]), 2 + data["samples"], data["steps"])
    paths = grid[data["periods"].index(period), data["initials"].index(initial), 2:] * data["step"] + data["low"]
    first = paths.new_full((len(paths), 1), initial * (1 + data["alpha"] + data["beta"]))
    return torch.cat([first, paths], dim=1)


def to_integers(values: Tensor) -> tuple[str, float, float]:
    """Base64 of 16-bit numbers n, and low and step: a value is low + n * step to within half a step."""
    low, high = values.min().item(), values.max().item()
    step = (high - low) / 65535 or 1.0
    numbers = ((values.double() - low) / step).round().numpy().astype("<u2")
    return base64.b64encode(numbers.tobytes()).decode("ascii"), low, step

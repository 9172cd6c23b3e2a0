"""Trajectories from a trained decay run, as numbers and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from contextual_rnn.experiments.config import entry_of
from contextual_rnn.experiments.runs.folder import WEIGHTS, Run
from contextual_rnn.experiments.runs.weights import load_model
from contextual_rnn.experiments.tasks.decay import DecayModel
from contextual_rnn.experiments.training.seeding import generator_for


@torch.no_grad()
def sample_trajectories(
    run: Run, *, initial: float, periods: Sequence[float], num_samples: int, seed: int = 0, mean: bool = False
) -> Tensor:
    """Run the model of a decay run freely from x(0) = `initial`: (periods, num_samples, 26), in the units of x.

    Every sample has an initial state of its own draw, repeatable by `seed`; with `mean` all start at the mean state.
    Raises ValueError for a run of another task, without weights or with damaged ones, and for numbers that are not
    finite.
    """
    for name, values in (("initial", [initial]), ("period", list(periods))):
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name}: expected finite numbers, got {values or 'none'}")
    if not all(period > 0 for period in periods):
        raise ValueError(f"period: expected positive numbers, got {list(periods)}")
    model = generating_model(run)
    period = torch.tensor(list(periods), dtype=torch.float32, device="cpu")
    paths = model.free_run(
        torch.full_like(period, initial),
        period,
        num_samples=num_samples,
        sample=not mean,
        generator=generator_for("trajectories", seed),
    )
    return checked_paths(paths, run)


def generating_model(run: Run) -> DecayModel:
    """The trained model of a run of the decay task. Raises ValueError for a run of another, and as `load_model`."""
    if not entry_of(run.config).trajectories:
        raise ValueError(f"run: expected a run of the decay task, got one of {run.task} in {run.folder}")
    model = load_model(run)
    assert isinstance(model, DecayModel)
    return model


def checked_paths(paths: Tensor, run: Run) -> Tensor:
    """`paths` of the model of `run`; raises ValueError, which names its weights, where they are not finite."""
    if not paths.isfinite().all():
        raise ValueError(f"run: expected finite trajectories from the weights in {run.folder / WEIGHTS}, got others")
    return paths


def to_csv(paths: Tensor, periods: Sequence[float]) -> str:
    """One line a value: period, sample, t, x."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["period", "sample", "t", "x"])
    for period, samples in zip(periods, paths.tolist(), strict=True):
        for sample, path in enumerate(samples):
            writer.writerows([period, sample, t, x] for t, x in enumerate(path))
    return text.getvalue()

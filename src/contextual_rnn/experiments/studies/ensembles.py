"""Bands from networks of several seeds together: how far off their mean is, and how much of the truth they hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from contextual_rnn.experiments.runs.folder import Run, has_weights
from contextual_rnn.experiments.runs.published import relative_command
from contextual_rnn.experiments.stats.groups import Group
from contextual_rnn.experiments.stats.intervals import CONFIDENCE, median_interval
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.studies.calibration import SEQUENCES, changed_settings, held_out
from contextual_rnn.experiments.studies.trajectories import checked_paths, generating_model
from contextual_rnn.experiments.tasks.decay import VALIDATION_PERIODS
from contextual_rnn.experiments.training.seeding import generator_for
from contextual_rnn.states import NormalState

SAMPLES = 50  # of each sequence, where the state is random
HALF = 5  # networks of a smaller ensemble


def ensembles(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Of every group of decay runs and each of its states: errors and bands, of each network alone and of all together.

    The band of n networks with means m_i and variances v_i over their own draws (0 without noise) is

        mean(m) +- t sqrt((1 + 1/n) var(m) + mean(v)),   t: 97.5 % quantile of Student's t, n - 1 degrees of freedom

    which holds 95 % of the means of further networks where these are normal; of the truth it holds as much if the truth
    is as one of them. `alone` has each network's free-running squared error and, with noise, the share of the truth in
    its own band mean +- 1.96 sqrt(v); `together` that of all, with the share at each held-out period; `halves` those
    of `HALF` networks each. Raises ValueError as `generating_model`.
    """
    rows = []
    for group in groups:
        for state in dict.fromkeys(run.config.state for run in group.runs):
            runs = [run for run in group.of_state(state) if run.converged and has_weights(run)]
            if group.entry.trajectories and len(runs) > HALF:
                rows.append(_row(group, sorted(runs, key=lambda run: run.config.seed)))
    return rows


def ensembles_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `ensembles` as a page lists them."""
    lines = []
    for row in rows:
        together, shares = row["together"], row["alone"]["inside"]
        lines.append([
            row["label"],
            str(len(row["seeds"])),
            "{:.4f} ({:.4f} to {:.4f})".format(*median_interval(row["alone"]["errors"])),
            f"{together['error']:.4f}",
            "{:.0%} ({:.0%} to {:.0%})".format(*median_interval(shares)) if shares else "-",
            f"{together['inside']:.0%}",
            *(f"{share:.0%}" for share in together["by_period"].values()),
        ])  # fmt: skip
    periods = [f"T = {period:g}" for period in VALIDATION_PERIODS]
    header = ["networks", "seeds", "error of one", "of all", "band of one holds", "of all", *periods]
    return Table("Networks of several seeds together (a band should hold 95%)", header, lines)


@torch.no_grad()
def _row(group: Group, runs: Sequence[Run]) -> dict[str, Any]:
    truth, period = held_out("ensembles")
    means, variances = map(torch.stack, zip(*(_paths(run, truth[:, 0], period) for run in runs), strict=True))
    truth = truth[:, 1:]
    noisy = bool(variances.any())
    alone = [_within(truth, mean, 1.96 * variance.sqrt()) for mean, variance in zip(means, variances, strict=True)]
    return {
        "label": ", ".join([f"{runs[0].config.state} state", *changed_settings(group)]),
        "options": {**group.settings, "state": runs[0].config.state, "epochs": runs[0].config.epochs},
        "seeds": [run.config.seed for run in runs],
        "alone": {
            "errors": [round((mean - truth).square().mean().item(), 5) for mean in means],
            "inside": [round(inside.mean().item(), 4) for inside in alone] if noisy else None,
        },
        "together": _together(truth, means, variances),
        "halves": [
            _together(truth, means[first : first + HALF], variances[first : first + HALF])
            for first in range(0, len(runs) - HALF + 1, HALF)
        ],
        "commands": [relative_command(run.result["command"]) for run in runs if run.result is not None],
    }


def _together(truth: Tensor, means: Tensor, variances: Tensor) -> dict[str, Any]:
    """Of the networks whose means and variances these are, (networks, sequences, steps)."""
    count = len(means)
    mean, spread = means.mean(0), (1 + 1 / count) * means.var(0) + variances.mean(0)
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    inside = _within(truth, mean, t * spread.sqrt()).mean(1)
    by_period = inside.unflatten(0, (-1, SEQUENCES)).mean(1).tolist()
    return {
        "error": round((mean - truth).square().mean().item(), 5),
        "inside": round(inside.mean().item(), 4),
        "by_period": {f"{p:g}": round(share, 4) for p, share in zip(VALIDATION_PERIODS, by_period, strict=True)},
        "half_width": round(t * math.sqrt(spread.mean().item()), 4),
    }


def _within(truth: Tensor, mean: Tensor, half: Tensor) -> Tensor:
    return ((truth - mean).abs() <= half).double()


def _paths(run: Run, initial: Tensor, period: Tensor) -> tuple[Tensor, Tensor]:
    """The path from the mean state, (sequences, steps), and the variance over draws of the state; 0 without noise."""
    model = generating_model(run)
    mean = checked_paths(model.free_run(initial, period), run)[:, 0, 1:]
    if not isinstance(model.rnn.initial_state, NormalState):
        return mean, torch.zeros_like(mean)
    generator = generator_for("ensembles", "states", run.config.seed)
    paths = model.free_run(initial, period, num_samples=SAMPLES, sample=True, generator=generator)
    return mean, checked_paths(paths, run)[..., 1:].var(1)

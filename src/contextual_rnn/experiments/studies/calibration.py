"""How far the spread of sampled decay trajectories can be trusted: nominal against observed coverage, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.experiments.config import DecayConfig, config_to_dict
from contextual_rnn.experiments.runs.folder import Refused, Run, has_weights, raise_it
from contextual_rnn.experiments.runs.published import relative_command
from contextual_rnn.experiments.stats.groups import Group
from contextual_rnn.experiments.stats.intervals import median_interval
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.stats.wording import option_text, words
from contextual_rnn.experiments.studies.trajectories import checked_paths, generating_model
from contextual_rnn.experiments.tasks.coverage import LEVELS, TWO_DEVIATIONS, coverage, deviations_of
from contextual_rnn.experiments.tasks.decay import VALIDATION_PERIODS, drawn_curves
from contextual_rnn.experiments.training.seeding import generator_for

CLOSE = 0.03  # a coverage within this of the nominal one counts as right
SEEDS = 20
SEQUENCES, SAMPLES = 20, 100  # of each period; of each sequence
COLUMNS = {
    "mean_scale": "mean sigma",
    "smallest_scale": "smallest sigma",
    "trajectory_spread": "deviation of x",
    "free_running_squared_error": "error",
}
PAPER = "the paper's loss"
NAMES = {"min_scale": "sigma at least", "kl_weight": "KL weight"}
RIGHT = "about as far apart as they should be"
# By what the samples are, "too alike" for one: each kind of loss, the median share of the truth that its samples hold,
# and the interval of that share over several seeds.
Verdicts = dict[str, list[tuple[str, float, Sequence[float] | None]]]
WATCHED = ("mean_scale", "smallest_scale", "trajectory_spread", "coverage_two_deviations")


def calibration(groups: Sequence[Group], refused: Refused = raise_it) -> list[dict[str, Any]]:
    """Of every group of decay runs with the normal state: options, seeds, how much of the truth is inside, sigma.

    `observed` has for each seed the share of steps at which the true curve lies inside the central interval of each of
    `levels`, mean and standard deviation taken over samples run freely from x(0); `two_deviations` that within two
    standard deviations (nominal 95.4 %), `by_period` its median over seeds for each held-out period. `final` has
    each seed's metrics after the last epoch, `epochs` medians over seeds after every epoch. Of many seeds the first
    SEEDS are sampled. All as JSON takes it. Where the weights of a run are damaged, the error goes to `refused`, which
    by default raises it, and the other runs are sampled.
    """
    rows = []
    for group in groups:
        runs = [run for run in group.runs if run.converged and run.config.state == "normal"]
        runs = [run for run in runs if group.entry.trajectories and has_weights(run)]
        sampled: list[tuple[Run, dict[str, Any]]] = []
        for run in sorted(runs, key=lambda run: run.config.seed)[:SEEDS]:
            try:
                sampled.append((run, _coverage_of(run)))
            except ValueError as error:
                refused(error)
        if sampled:
            rows.append(_row(group, *zip(*sampled, strict=True)))
    return sorted(rows, key=lambda row: (row["label"] != PAPER, *(row["options"][name] for name in NAMES)))


def calibration_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `calibration` as the report lists them."""
    table = []
    for row in rows:
        inside, final = row["two_deviations_median"], row["final"]
        one = f"{row['two_deviations'][0]:.1%} (one seed)"
        table.append(
            [
                row["label"],
                str(len(row["seeds"])),
                "{:.1%} ({:.1%} to {:.1%})".format(*inside) if inside else one,
                *(f"{share:.0%}" for share in row["by_period"].values()),
                *(f"{statistics.median(final[name]):.3f}" if name in final else "-" for name in COLUMNS),
            ]
        )
    periods = [f"T = {period:g}" for period in VALIDATION_PERIODS]
    header = ["loss", "seeds", "within two deviations", *periods, *COLUMNS.values()]
    return Table("Truth inside the band (nominal 95.4%)", header, table)


def verdicts_of(rows: Sequence[Mapping[str, Any]]) -> Verdicts:
    """The rows of `calibration` by whether two standard deviations hold as much of the truth as they should."""
    verdicts: Verdicts = {}
    for row in rows:
        share = statistics.median(row["two_deviations"])
        off = share - TWO_DEVIATIONS
        verdict = "too alike" if off < -CLOSE else "too far apart" if off > CLOSE else RIGHT
        verdicts.setdefault(verdict, []).append((row["label"], share, row["two_deviations_median"]))
    return {verdict: verdicts[verdict] for verdict in ("too alike", RIGHT, "too far apart") if verdict in verdicts}


def _row(group: Group, runs: Sequence[Run], shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    inside = [share["two_deviations"] for share in shares]
    whole = [run.metrics for run in runs if len(run.metrics) == len(runs[0].metrics)]
    return {
        "label": ", ".join(changed_settings(group)) or PAPER,
        "options": {**config_to_dict(DecayConfig()), **group.settings, "epochs": runs[0].config.epochs},
        "seeds": [run.config.seed for run in runs],
        "levels": list(LEVELS),
        "observed": [share["observed"] for share in shares],
        "two_deviations": inside,
        "two_deviations_median": [round(value, 4) for value in median_interval(inside)] if len(runs) > 1 else None,
        "by_period": {
            f"{period:g}": statistics.median(share["by_period"][index] for share in shares)
            for index, period in enumerate(VALIDATION_PERIODS)
        },
        "final": {
            name: [run.result["final"][name] for run in runs if run.result is not None]
            for name in (*WATCHED, "free_running_squared_error")
            if all(run.result is not None and name in run.result["final"] for run in runs)
        },
        "epochs": {
            name: [round(statistics.median(line[name] for line in lines), 5) for lines in zip(*whole, strict=True)]
            for name in WATCHED
            if all(name in line for lines in whole for line in lines)
        },
        "commands": [relative_command(run.result["command"]) for run in runs if run.result is not None],
    }


def changed_settings(group: Group) -> list[str]:
    """The settings of a group of decay runs that are not the paper's, in words."""
    defaults = config_to_dict(DecayConfig())
    changed = {name: value for name, value in group.settings.items() if value != defaults[name]}
    return [f"{NAMES.get(name, words(name))} {option_text(value)}" for name, value in changed.items()]


def held_out(study: str) -> tuple[Tensor, Tensor]:
    """True curves, (4 * SEQUENCES, 26), of periods that training lacks, and the periods; a study draws its own."""
    period = torch.tensor(VALIDATION_PERIODS, device="cpu").repeat_interleave(SEQUENCES)
    return drawn_curves(period, generator_for(study, "initial")), period


@torch.no_grad()
def _coverage_of(run: Run) -> dict[str, Any]:
    model = generating_model(run)
    truth, period = held_out("calibration")
    draws = generator_for("calibration", "states", run.config.seed)
    paths = model.free_run(truth[:, 0], period, num_samples=SAMPLES, sample=True, generator=draws)
    checked_paths(paths, run)
    inside = coverage(paths[..., 1:], truth[:, 1:], [*map(deviations_of, LEVELS), 2.0])
    *observed, two = inside.mean(0).tolist()
    by_period = inside[:, -1].unflatten(0, (-1, SEQUENCES)).mean(1).tolist()
    return {
        "observed": [round(share, 4) for share in observed],
        "two_deviations": round(two, 4),
        "by_period": [round(share, 4) for share in by_period],
    }

"""CartPole without its velocities: agents whose episodes begin from zeros, a learned state, or a contextual one.

    pip install sb3-contrib gymnasium && python examples/masked_cartpole.py

The LSTMs of stable-baselines3-contrib's RecurrentPPO read the two positions and must infer the two velocities. What can
a state know before the first step? The first observation alone, and that is the first input too: a start from it, or a
learned one, adds no knowledge, and can only help to learn. One arm is given what no agent has, the velocities at the
start: it bounds what any start can add. Its control reads the same velocities in its first input, and begins from
zeros. The last arm reads velocities at every step. All arms of a seed have the same weights before training.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
import tyro
from evidence import FAINT, PALETTE, over_seeds, styled, write, write_picture
from masked_cartpole_agents import ARMS, train
from matplotlib.figure import Figure
from tqdm import tqdm

from contextual_rnn.experiments.stats.crossed import crossed_mean

DURING, AFTER = "return in training", "return after it"


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    steps: int = 20_480
    """Of the environment, in training."""
    units: int = 32
    rate: float = 2e-3
    episodes: int = 20
    """Of the test after training, with the most probable actions."""
    points: int = 5
    """Of the curve of returns in training."""
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


def above(values: Sequence[float], zeros: Sequence[float]) -> dict[str, object]:
    """The difference, paired by seed, with a t interval over seeds."""
    gains = [value - zero for value, zero in zip(values, zeros, strict=True)]
    mean, *interval = crossed_mean(numpy.array(gains)[:, None])
    return {"mean": mean, "seeds": gains, "interval": interval}


def figures_of(runs: dict[str, list[tuple[list[float], float]]]) -> dict[str, dict[str, dict]]:
    """By arm, of the curve and the return after training of every seed."""
    figures = {}
    for arm, of_arm in runs.items():
        values = {DURING: [float(numpy.mean(curve)) for curve, _ in of_arm], AFTER: [after for _, after in of_arm]}
        figures[arm] = {name: over_seeds(seeds) for name, seeds in values.items()}
        if arm != "zeros":
            zeros = figures["zeros"]
            figures[arm] |= {f"{name}, above zeros": above(values[name], zeros[name]["seeds"]) for name in values}
    return figures


@styled()
def draw(runs: dict[str, list[tuple[list[float], float]]], figures: dict, steps: int) -> Figure:
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    for place, (arm, color) in enumerate(zip(runs, (FAINT, *PALETTE), strict=False)):
        curves = [curve for curve, _ in runs[arm]]
        left.plot(numpy.linspace(0, steps, len(curves[0]) + 1)[1:], numpy.mean(curves, 0), color=color, label=arm)
        for name, marker, shift in ((DURING, "o", -0.12), (AFTER, "s", 0.12)):
            if arm != "zeros":
                gain = figures[arm][f"{name}, above zeros"]
                right.plot(gain["interval"], [place + shift] * 2, color=color)
                right.plot(gain["mean"], place + shift, marker, color=color)
    left.set(xlabel="steps of training", ylabel="return of an episode")
    right.set(xlabel="return above that from zeros: in training (circle), after it (square)", yticks=[])
    right.axvline(0, color=FAINT, linestyle="--")
    right.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, steps=1024, episodes=2, points=1)
    started, setting = time.perf_counter(), asdict(options)
    arguments = {name: setting[name] for name in ("steps", "points", "episodes", "units", "rate")}
    runs: dict[str, list[tuple[list[float], float]]] = {arm: [] for arm in ARMS}
    for seed in range(options.seeds):
        for arm in tqdm(ARMS, desc=f"seed {seed}", leave=False):
            runs[arm].append(train(arm, seed, **arguments))
        write(options.out / "masked_cartpole.json", setting, figures_of(runs), started)  # it takes a while
    write_picture(options.out / "masked_cartpole.png", draw(runs, figures_of(runs), options.steps))


if __name__ == "__main__":
    main(tyro.cli(Options))

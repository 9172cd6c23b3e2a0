"""Noise on the initial state: does it steady the long free-running forecast of a noisy dynamical system?

    dx = v dt,  dv = ((1 - x^2) v - x) dt + 0.3 dW        (a van der Pol oscillator driven by noise)

A GRU starts from a learned state, reads a few noisy positions and then goes on alone, its forecast fed back, ten times
as long as it was ever trained to. Zimmermann et al. (2012) add noise to the first state in training, proportional to
the error that is back-propagated to it, so that the network learns to come back from wherever it starts. Compared with
the same noise held fixed, and with none, over two sizes.

"error": root of the mean squared error over the standard deviation of x, for steps 1 to 20 and for all 200.
"wasserstein": distance between the forecast's and the system's distribution of x in steps 100 to 200, over the same
deviation: it is large where a forecast dies out or runs off, even where none could be in phase.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
import torch
import tyro
from evidence import INK, over_seeds, styled, write, write_picture
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from contextual_rnn import FreeState

READ, TRAINED, HORIZON = 10, 20, 200  # steps read, then forecast in training and in the test
STEP, NOISE = 0.25, 0.1  # seconds a step, noise of the measured positions
VARIANTS = {  # size of the noise, and the decay of the mean it follows (None: it stays as it is)
    "none": (0.0, None),
    "fixed 0.1": (0.1, None),
    "fixed 0.3": (0.3, None),
    "proportional 0.1": (0.1, 0.9),
    "proportional 0.3": (0.3, 0.9),
}


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    """Each with data, weights and batches of its own."""
    updates: int = 300
    sequences: int = 100  # to train on; three times as many in the test
    units: int = 24
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


def simulate(sequences: int, steps: int, rng: numpy.random.Generator) -> Tensor:
    """Positions, (sequences, steps), by Euler and Maruyama in steps of 0.025 s, once the start is forgotten."""
    x, v, dt = *rng.normal(size=(2, sequences)), STEP / 10
    path = []
    for step in range(10 * (steps + 80)):
        x, v = x + v * dt, v + ((1 - x**2) * v - x) * dt + 0.3 * dt**0.5 * rng.normal(size=sequences)
        if step % 10 == 9:
            path.append(x)
    return torch.tensor(numpy.stack(path[80:], 1)).float()


class Forecaster(nn.Module):
    def __init__(self, noise: float, error_decay: float | None, units: int):
        super().__init__()
        self.cell = nn.GRUCell(1, units)
        self.initial_state = FreeState(self.cell, noise=noise, error_decay=error_decay)
        self.readout = nn.Linear(units, 1)

    def forward(self, measured: Tensor, steps: int) -> Tensor:
        """One step ahead while it reads (B, READ), then `steps` alone: (B, READ + steps) from the second position."""
        h, found = self.initial_state(batch_size=len(measured)), []
        for step in range(READ + steps):
            x = measured[:, step, None] if step < READ else found[-1]
            h = self.cell(x, h)
            found.append(x + self.readout(h))
        return torch.cat(found, 1)


def train(variant: str, measured: Tensor, options: Options, seed: int) -> Forecaster:
    torch.manual_seed(seed)
    batches = torch.Generator().manual_seed(seed)  # of their own, so that all see the same
    model = Forecaster(*VARIANTS[variant], options.units)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, options.updates)
    for _ in trange(options.updates, desc=f"{variant}, seed {seed}", leave=False):
        rows = torch.randint(len(measured), (32,), generator=batches)
        first = int(torch.randint(measured.shape[1] - READ - TRAINED, (), generator=batches))
        x = measured[rows, first : first + READ + TRAINED + 1]
        loss = functional.mse_loss(model(x, TRAINED), x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def judge(forecast: Tensor, truth: Tensor) -> dict[str, float]:
    """Of forecasts and true positions, (B, HORIZON)."""
    error, deviation = (forecast - truth).square().mean(0) / truth.var(), float(truth.std())
    far = [path[:, HORIZON // 2 :].flatten().numpy() for path in (forecast, truth)]
    return {
        "error, 20 steps": float(error[:TRAINED].mean().sqrt()),
        "error, 200 steps": float(error.mean().sqrt()),
        "wasserstein": wasserstein_distance(*far) / deviation,
    }


@styled()
def draw(truth: Tensor, forecasts: dict[str, Tensor]) -> Figure:
    figure = Figure(figsize=(10, 5))
    for axes, name in zip(figure.subplots(3, 1, sharex=True), ("none", "fixed 0.3", "proportional 0.3"), strict=True):
        axes.plot(truth, color=INK, linewidth=2.5, alpha=0.3, label="one path of the system")
        axes.plot(forecasts[name], label="forecast")
        axes.set(title=f"Noise on the initial state in training: {name}", ylabel="x")
    axes.set_xlabel("step of the free-running forecast")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=8, sequences=20, units=8)
    started, found = time.perf_counter(), {name: {} for name in VARIANTS}
    for seed in range(options.seeds):
        rng, forecasts = numpy.random.default_rng(seed), {}
        paths = simulate(4 * options.sequences, READ + HORIZON + 1, rng)
        measured = paths + NOISE * torch.tensor(rng.normal(size=paths.shape)).float()
        test = slice(options.sequences, None)
        for name in VARIANTS:
            model = train(name, measured[: options.sequences, :100], options, seed)
            with torch.no_grad():
                forecasts[name] = model(measured[test], HORIZON)[:, READ:]
            for measure, value in judge(forecasts[name], paths[test, READ + 1 :]).items():
                found[name].setdefault(measure, []).append(value)
        figures = {name: {what: over_seeds(values) for what, values in found[name].items()} for name in VARIANTS}
        for name in list(VARIANTS)[1:]:  # paired by seed: the same data, first weights and batches
            gains = numpy.subtract(found[name]["wasserstein"], found["none"]["wasserstein"])
            figures[name]["wasserstein, less that of none"] = over_seeds(gains)
        figure = draw(paths[-1, READ + 1 :], {name: path[-1] for name, path in forecasts.items()})
        write_picture(options.out / "noise.png", figure)
        write(options.out / "noise.json", asdict(options), figures, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

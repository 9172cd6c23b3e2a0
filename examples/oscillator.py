"""Window -> state: simulate a driven, damped, nonlinear oscillator from where it is, instead of from zero.

    x'' + 0.2 x' + x + x^3 = u(t)

An LSTM sees the drive u and predicts the position x, free-running: no position is ever fed back. Where the oscillator
stood when the prediction begins is not in the drive to come, so an LSTM that starts at zero is wrong until the past
has died away. What people do about it is a burn-in: run over past drives first and discard that output. Here a context
network reads a short window of past drives and noisy positions instead (the encoder of Beintema, Toth and Schoukens
2021) and sets the state at once.

Error: root of the mean squared error over the standard deviation of x, in the first 20 steps and over all of them.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
import torch
import tyro
from evidence import INK, PALETTE, over_seeds, styled, write, write_picture
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from contextual_rnn import ConstantState, ContextState, ContextualRNN

PAST, WINDOW = 100, 20  # steps before the prediction, and how many of them the window shows
STEP, NOISE = 0.2, 0.02  # seconds a step, noise of the measured positions
VARIANTS = {  # what sets the state, and how many steps of burn-in come first
    "zero": ("zero", 0),
    "zero, burn-in of 20": ("zero", 20),
    "zero, burn-in of 100": ("zero", PAST),
    "window of 20": ("window", 0),
}


@dataclass(frozen=True)
class Options:
    seeds: int = 5  # each with data, weights and batches of its own
    updates: int = 800
    sequences: int = 1000  # to train on, and a quarter as many for the test
    steps: int = 60  # that are predicted in training, and three times as many in the test
    units: int = 48
    out: Path = Path("results")
    quick: bool = False  # a small setting that ends in seconds


def simulate(sequences: int, steps: int, rng: numpy.random.Generator) -> tuple[Tensor, Tensor]:
    """Drives, sums of eight random sines, and positions, each (sequences, steps); the oscillator has long been on."""
    frequency = rng.uniform(0.1, 2.5, (8, sequences))
    phase = rng.uniform(0, 2 * numpy.pi, (8, sequences))

    def drive(t: float) -> numpy.ndarray:
        return 0.4 * numpy.sin(frequency * t + phase).sum(0)

    def derivative(t: float, state: numpy.ndarray) -> numpy.ndarray:
        x, v = state.reshape(2, sequences)
        return numpy.concatenate([v, drive(t) - 0.2 * v - x - x**3])

    times = 30 + STEP * numpy.arange(steps)
    solution = solve_ivp(derivative, (0, times[-1]), rng.normal(size=2 * sequences), t_eval=times, rtol=1e-6, atol=1e-6)
    drives = numpy.stack([drive(t) for t in times], 1)
    return torch.tensor(drives).float(), torch.tensor(solution.y[:sequences]).float()


class Simulator(nn.Module):
    """x(t) = readout(LSTM(u(..t))), from a state that is zero or read off the window before."""

    def __init__(self, state: str, units: int):
        super().__init__()
        lstm = nn.LSTM(1, units, batch_first=True)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(2 * WINDOW, 64), nn.Tanh())
        initial_state = ContextState(lstm, encoder) if state == "window" else ConstantState(lstm)
        self.rnn, self.readout = ContextualRNN(lstm, initial_state), nn.Linear(units, 1)

    def forward(self, drives: Tensor, measured: Tensor, burn_in: int, steps: int) -> Tensor:
        window = torch.stack([drives[:, PAST - WINDOW : PAST], measured[:, PAST - WINDOW : PAST]], -1)
        inputs = drives[:, PAST - burn_in : PAST + steps, None]
        output, _ = self.rnn(inputs, context=window)
        return self.readout(output[:, burn_in:]).squeeze(-1)


def train(variant: str, drives: Tensor, positions: Tensor, options: Options, seed: int) -> Simulator:
    state, burn_in = VARIANTS[variant]
    torch.manual_seed(seed)
    model = Simulator(state, options.units)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, options.updates)
    for _ in trange(options.updates, desc=f"{variant}, seed {seed}", leave=False):
        rows = torch.randint(len(drives), (64,))
        u, x = drives[rows], positions[rows]
        measured = x + NOISE * torch.randn_like(x)
        target = measured[:, PAST : PAST + options.steps]
        loss = functional.mse_loss(model(u, measured, burn_in, options.steps), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


@styled()
def draw(truth: Tensor, paths: dict[str, Tensor], errors: dict[str, Tensor]) -> Figure:
    left, right = (figure := Figure(figsize=(10, 3.4))).subplots(1, 2)
    left.plot(truth[:100], color=INK, linewidth=2.5, alpha=0.35, label="true")
    for name in ("zero", "window of 20"):
        left.plot(paths[name][:100], color=PALETTE[list(errors).index(name)], label=name)
    left.set(xlabel="step", ylabel="position x", title="One held-out sequence, free-running")
    for name, error in errors.items():
        right.semilogy(error.mean(0), label=name)
    right.set(xlabel="step", ylabel="error / std of x", title="Held-out error, mean over seeds")
    for axes in (left, right):
        axes.legend()
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=40, sequences=100, steps=30, units=16)
    started, horizon = time.perf_counter(), 3 * options.steps
    squares: dict[str, list[Tensor]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        u, x = simulate(options.sequences * 5 // 4, PAST + horizon, numpy.random.default_rng(seed))
        test, paths = slice(options.sequences, None), {}
        truth = x[test, PAST:]
        measured = x[test] + NOISE * torch.randn(x[test].shape, generator=torch.Generator().manual_seed(seed))
        for name, (_, burn_in) in VARIANTS.items():
            model = train(name, u[: options.sequences], x[: options.sequences], options, seed)
            with torch.no_grad():
                paths[name] = model(u[test], measured, burn_in, horizon)
            squares[name].append((paths[name] - truth).square().mean(0) / truth.var())
        errors = {name: torch.stack(values) for name, values in squares.items()}  # (seeds, horizon), squared
        first = {name: error[:, :20].mean(1).sqrt() for name, error in errors.items()}
        figures = {
            name: {"first 20 steps": over_seeds(first[name]), "overall": over_seeds(error.mean(1).sqrt())}
            for name, error in errors.items()
        }
        figures["window of 20"]["first 20 steps / zero's"] = over_seeds(first["window of 20"] / first["zero"])
        roots = {name: error.sqrt() for name, error in errors.items()}
        write_picture(options.out / "oscillator.png", draw(truth[0], {n: path[0] for n, path in paths.items()}, roots))
        write(options.out / "oscillator.json", asdict(options), figures, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Irregular samples of a spiral -> where an ODE starts: positions at any time, before, between and after the samples.

    z ~ N(encoder(samples)), dz/dt = f(z), x(t) = R z(t)

A latent ODE (Chen et al. 2018, Rubanova et al. 2019): an encoder reads the samples of a window, the latest first, and
gives a distribution over the state at the window's start; f, a small network, is integrated from there to any time,
forward and backward. Training maximises the bound on the likelihood of all samples, also of those outside the window.

Measured on spirals never seen, against the true ones without noise, as the root of the mean squared distance: inside
the window, after it, before it, and where training had no samples. Beside it the same ODE from zero with the encoder's
output at every time, a GRU that reads the gap to the next time, and the mean of all spirals, which is their centre.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from evidence import INK, PALETTE, over_seeds, styled, write, write_picture
from latent_ode_data import END, PARTS, TURN, Samples, Spirals, errors, sampled, uniform_times
from latent_ode_model import START, GapGRU, LatentODE, Model, bound, predict
from matplotlib.figure import Figure
from torch import nn
from tqdm import trange

VARIANTS = {
    "latent ODE": LatentODE,
    "ODE from zero, encoder at every time": lambda units: LatentODE(units, told=True),
    "GRU that reads time gaps": GapGRU,
}
OURS, CENTRE = "latent ODE", "no samples: the centre"


@dataclass(frozen=True)
class Options:
    seeds: int = 5  # each with spirals, weights and batches of its own
    updates: int = 600
    spirals: int = 1000  # to train on, and a fifth as many for the test
    samples: int = 16  # of a spiral, half of them in the window on average
    units: int = 48
    out: Path = Path("results")
    quick: bool = False  # a small setting that ends in seconds


def train(model: Model, samples: Samples, updates: int, name: str) -> Model:
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, updates)
    for update in trange(updates, desc=name, leave=False):
        rows = torch.randint(len(samples.x), (128,))
        loss = bound(model, samples.rows(rows), warm=min(1, 3 * update / updates))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def evaluate(model: Model | None, samples: Samples, truth: Spirals, seed: int) -> dict[str, float]:
    """Errors at times as dense as in training, and inside the window at times eight times as dense."""
    generator, count, (before, after) = torch.Generator().manual_seed(seed), len(samples.x), (-TURN / 4, END + TURN / 4)
    measures: dict[str, float] = {}
    for name, density in (("", 1), (", 8 times as dense", 8)):
        times = uniform_times(count, density * samples.x.shape[1] * 3 // 2, before, after, generator)
        path = torch.zeros(*times.shape, 2) if model is None else predict(model, samples, times)[0]
        by_part = errors(path, truth.at(times), times)
        measures |= {part + name: by_part[part] for part in (PARTS if density == 1 else ["inside"])}
    if model is None or not model.initial_state.reads_context:
        return measures
    return measures | {"KL, nats": float(model.initial_state.posterior(samples).kl().mean())}


@styled()
@torch.no_grad()
def draw(model: LatentODE, samples: Samples, truth: Spirals) -> Figure:
    """Four held-out spirals: the samples seen, the true path, and paths from draws of the posterior."""
    times = torch.linspace(-TURN / 4, END + TURN / 4, 301)
    figure = Figure(figsize=(10, 2.9))
    for row, axes in enumerate(figure.subplots(1, 4)):
        one = samples.rows(torch.tensor([row]))
        posterior, exact = model.initial_state.posterior(one), Spirals(*(part[[row]] for part in truth))
        for z in posterior.sample(8, torch.Generator().manual_seed(0)):
            path = model.run(z[None], times[None] - START, one)[0]
            axes.plot(*path.T, color=PALETTE[0], linewidth=0.5, alpha=0.5)
        mean = model.run(posterior.mean, times[None] - START, one)[0]
        axes.plot(*mean.T, color=PALETTE[0], label="latent ODE, and draws")
        axes.plot(*exact.at(times[None])[0].T, color=INK, linestyle="--", linewidth=0.8, label="true")
        axes.plot(*one.x[one.seen].T, "o", color=PALETTE[1], markersize=4, label="samples seen")
        axes.set(aspect="equal", xticks=[], yticks=[], xlim=(-2.4, 2.4), ylim=(-2.4, 2.4))
        axes.spines[:].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=8, spirals=50, units=8)
    started, runs = time.perf_counter(), {name: [] for name in (*VARIANTS, CENTRE)}
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        generator = torch.Generator().manual_seed(seed)
        sets = [Spirals.drawn(count, generator) for count in (options.spirals, options.spirals // 5)]
        known, held_out = (sampled(spirals, options.samples, generator) for spirals in sets)
        for name, make in VARIANTS.items():
            torch.manual_seed(seed)
            model = train(make(options.units), known, options.updates, f"{name}, seed {seed}")
            runs[name].append(evaluate(model, held_out, sets[1], seed))
            if name == OURS and seed == 0:
                write_picture(options.out / "latent_ode.png", draw(model, held_out, sets[1]))
        runs[CENTRE].append(evaluate(None, held_out, sets[1], seed))
        figures = {n: {key: over_seeds([run[key] for run in each]) for key in each[0]} for n, each in runs.items()}
        for name in [name for name in runs if name != OURS]:
            pairs = list(zip(runs[OURS], runs[name], strict=True))
            for part in ("inside", "forward", "backward"):
                figures[name][f"{part} / latent ODE's"] = over_seeds([b[part] / a[part] for a, b in pairs])
        write(options.out / "latent_ode.json", asdict(options), figures, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

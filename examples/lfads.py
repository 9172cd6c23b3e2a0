"""LFADS: one trial's spikes -> a distribution over the initial state of a dynamical system -> its firing rates.

    z ~ N(encoder(spikes)), h(0) = W z, h(t) = GRU(h(t-1)), rates(t) = exp(C factors(t) + b), factors(t) = F h(t)

Neurons of one population follow few shared dynamics, here a Lorenz system's. LFADS (Pandarinath et al. 2018) reads all
spikes of a trial backwards and forwards, and infers where an autonomous network has to start so that it gives the
rates of the whole trial. The prior of z is learned; KL and L2 are weighed up from zero; coordinated dropout
(Keshtkaran and Pandarinath 2019) shows some spikes and scores the others, so that nothing is copied.

Measured on trials never seen: R^2 of the true rates of the shown neurons; bits per spike of ten neurons that are never
shown; R^2 of the Lorenz state, read off the factors by linear regression. Beside it: smoothing and its principal
components, of the width that is best on the very trials of the test, and the same GRU from zero with the encoder's
output as the input of every step.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from evidence import over_seeds, write, write_picture
from lfads_data import HELD_IN, NEURONS, bits_per_spike, decoded, r_squared, record, without_dynamics
from lfads_picture import draw
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from contextual_rnn import ConstantState, ContextualRNN, LatentState
from contextual_rnn.states import Posterior


@dataclass(frozen=True)
class Options:
    seeds: int = 5  # each with a system of neurons, weights and batches of its own
    epochs: int = 60
    trials: int = 800  # to train on, and an eighth as many for the test
    steps: int = 60  # bins of ten milliseconds
    units: int = 64
    latent: int = 8
    shown: float = 0.7  # share of the spikes that coordinated dropout shows
    out: Path = Path("results")
    quick: bool = False  # a small setting that ends in seconds


class Encoder(nn.Module):
    """The last states of a bidirectional GRU over (B, T, neurons)."""

    def __init__(self, units: int):
        super().__init__()
        self.gru, self.dropout = nn.GRU(HELD_IN, units, batch_first=True, bidirectional=True), nn.Dropout(0.1)
        self.out_features = 2 * units

    def forward(self, spikes: Tensor) -> Tensor:
        return self.dropout(self.gru(spikes)[1].transpose(0, 1).flatten(1))


class LFADS(nn.Module):
    """Log-rates of all neurons from the spikes of those shown. Without `initial` the state is zero, and what the
    encoder says is the input of every step instead."""

    def __init__(self, options: Options, initial: bool):
        super().__init__()
        encoder = Encoder(options.units)
        self.encoder = None if initial else nn.Sequential(encoder, nn.Linear(encoder.out_features, options.latent))
        gru = nn.GRU(1 if initial else options.latent, options.units, batch_first=True)
        state = LatentState(gru, encoder, options.latent, scale=0.1, min_scale=1e-3) if initial else ConstantState(gru)
        self.rnn = ContextualRNN(gru, state)
        self.prior_mean = nn.Parameter(torch.zeros(options.latent))
        self.prior_log_scale = nn.Parameter(torch.zeros(options.latent))
        self.factors, self.readout = nn.Linear(options.units, 8, bias=False), nn.Linear(8, NEURONS)

    def forward(self, spikes: Tensor, num_samples: int | None = None) -> tuple[Tensor, Tensor, Posterior | None]:
        if self.encoder is not None:
            output, posterior = self.rnn(self.encoder(spikes)[:, None].expand(-1, spikes.shape[1], -1))[0], None
        else:
            nothing = spikes.new_zeros(*spikes.shape[:2], 1)  # the network runs by itself
            (output, _), posterior = self.rnn(nothing, context=spikes, num_samples=num_samples, return_posterior=True)
        factors = self.factors(output)
        return self.readout(factors), factors, posterior

    def loss(self, spikes: Tensor, shown: float, warm: float) -> Tensor:
        """The bound in nats a trial, of the spikes that were not shown."""
        mask = torch.rand_like(spikes[..., :HELD_IN]) < shown
        log_rates, _, posterior = self(spikes[..., :HELD_IN] * mask / shown)
        nats = functional.poisson_nll_loss(log_rates, spikes, reduction="none")
        hidden = (nats[..., :HELD_IN] * ~mask).sum((1, 2)) / (1 - shown) + nats[..., HELD_IN:].sum((1, 2))
        recurrent = self.rnn.network.weight_hh_l0.square().mean()
        kl = 0 if posterior is None else posterior.kl((self.prior_mean, self.prior_log_scale.exp()))
        return (hidden + warm * kl).mean() + warm * 50 * recurrent


def train(spikes: Tensor, initial: bool, options: Options, seed: int) -> LFADS:
    torch.manual_seed(seed)
    model, updates = LFADS(options, initial), options.epochs * -(-len(spikes) // 50)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, updates)
    for epoch in trange(options.epochs, desc=f"{'LFADS' if initial else 'zero state'}, seed {seed}", leave=False):
        for rows in torch.randperm(len(spikes)).split(50):
            optimizer.zero_grad()
            model.loss(spikes[rows], options.shown, warm=min(1, 2 * epoch / options.epochs)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 200.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def measured(rates: Tensor, spikes: Tensor, truth: Tensor) -> dict[str, float]:
    bits = bits_per_spike(rates[..., HELD_IN:], spikes[..., HELD_IN:])
    return {"R2 of rates": r_squared(rates[..., :HELD_IN], truth[..., :HELD_IN]), "bits per spike": bits}


@torch.no_grad()
def evaluate(model: LFADS, train: list[Tensor], test: list[Tensor], initial: bool) -> tuple[dict[str, float], Tensor]:
    """Figures of the mean rates over 50 posterior samples (of the one run of the zero state), and these samples."""
    (spikes, _, state), (held_out, truth, true_state) = train, test
    samples = 50 if initial else None
    draws = model(held_out[..., :HELD_IN], samples)[0].exp().unflatten(0, (len(held_out), -1))
    factors = [model(part[..., :HELD_IN])[1] for part in (spikes, held_out)]
    recovered = r_squared(decoded(factors[0], state, factors[1]), true_state)
    return measured(draws.mean(1), held_out, truth) | {"R2 of Lorenz state": recovered}, draws


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, epochs=4, trials=80, steps=30, units=16)
    started, runs = time.perf_counter(), {}
    for seed in range(options.seeds):
        data = record(options.trials * 9 // 8, options.steps, seed)
        parts = [[part[: options.trials] for part in data], [part[options.trials :] for part in data]]
        for name, components in (("smoothing", None), ("smoothing and 3 components", 3)):
            rates = [without_dynamics(parts[0][0], parts[1][0], components, width) for width in (2, 4, 8)]
            smoothed = [measured(each, *parts[1][:2]) for each in rates]
            runs.setdefault(name, []).append(max(smoothed, key=lambda figures: figures["R2 of rates"]))
        for name, initial in (("LFADS", True), ("zero state, encoder at every step", False)):
            model = train(parts[0][0], initial, options, seed)
            figures, draws = evaluate(model, *parts, initial)
            runs.setdefault(name, []).append(figures)
            if initial and seed == 0:
                z = model.rnn.initial_state.posterior(parts[1][0][..., :HELD_IN]).latent.mean.detach()
                write_picture(options.out / "lfads.png", draw(parts[1][1][0], draws[0], z, parts[1][2][:, 0, 0]))
        names = {n: {key: over_seeds([run[key] for run in each]) for key in each[0]} for n, each in runs.items()}
        gains = [a["R2 of rates"] - b["R2 of rates"] for a, b in zip(runs["LFADS"], runs[name], strict=True)]
        names["LFADS"]["R2 of rates, above the zero state's"] = over_seeds(gains)
        write(options.out / "lfads.json", asdict(options), names, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

"""The models of latent_ode.py: one encoder, and an ODE or a GRU that runs from the state both ways in time."""

import torch
from latent_ode_data import NOISE, WINDOW, Samples
from torch import Tensor, nn
from torchdiffeq import odeint

from contextual_rnn import ConstantState, ContextualRNN, FreeState, LatentState, Leaf, NormalState, StateSpec
from contextual_rnn.states import Posterior

LATENT, START, STEP = 8, WINDOW[0], 0.5  # numbers in z, the time of z, and the solver's step


class Encoder(nn.Module):
    """The last state of a GRU that reads the samples of the window, the latest first, each with its time."""

    def __init__(self, units: int):
        super().__init__()
        gru = nn.GRU(3, units, batch_first=True)
        self.rnn, self.out_features = ContextualRNN(gru, FreeState(gru)), units

    def forward(self, samples: Samples) -> Tensor:
        features = torch.cat([samples.x, (samples.times - START)[..., None]], -1)
        return self.rnn(features.flip(1), mask=samples.seen.flip(1))[1][0]


class LatentODE(nn.Module):
    """x(t) = R z(t) with dz/dt = A z + B tanh(C z + d) + b from z at the start of the window, forward and backward.

    Where it is `told` the samples at every time, z starts at zero, and the derivative and R also read the encoder's
    output; else a distribution of z is the only thing that the samples set.
    """

    def __init__(self, units: int, told: bool = False):
        super().__init__()
        spec, encoder, width = StateSpec(Leaf("z", (LATENT,))), Encoder(units), LATENT * (1 + told)
        normal = NormalState(spec, encoder, 0.1, min_scale=1e-3, scale_from_context=True)
        self.initial_state = ConstantState(spec) if told else normal
        self.encoder = nn.Sequential(encoder, nn.Linear(units, LATENT)) if told else None
        self.linear = nn.Linear(width, LATENT)
        self.field = nn.Sequential(nn.Linear(width, units), nn.Tanh(), nn.Linear(units, LATENT, bias=False))
        self.readout = nn.Linear(width, 2)

    def run(self, z: Tensor, times: Tensor, samples: Samples) -> Tensor:
        """Positions (B, T, 2) at times (B, T) after the start of the window, or before it where they are negative.

        One call integrates both ways, backward as dz/ds = -f(z), to knots that all rows share. Between two knots lies
        the cubic that has their z and f(z); its error is of the order of the solver's.
        """
        batch = len(z)
        constant = z.new_zeros(2 * batch, 0) if self.encoder is None else self.encoder(samples).repeat(2, 1)
        sign = torch.ones(2 * batch, 1)
        sign[batch:] = -1

        def slope(s: Tensor, z: Tensor) -> Tensor:
            z = torch.cat([z, constant.expand(*z.shape[:-1], -1)], -1)
            return sign * (self.linear(z) + self.field(z))

        knots = STEP * torch.arange(float(times.abs().max()) // STEP + 2)
        states = odeint(slope, torch.cat([z, z]), knots, method="rk4")
        slopes = STEP * slope(knots, states)
        left, row = (times.abs() / STEP).long(), torch.arange(batch)[:, None] + batch * (times < 0)
        w = (times.abs() / STEP - left)[..., None]
        before = (1 + 2 * w) * states[left, row] + w * slopes[left, row]
        after = (3 - 2 * w) * states[left + 1, row] - (1 - w) * slopes[left + 1, row]
        path = (1 - w).square() * before + w.square() * after
        return self.readout(torch.cat([path, constant[:batch, None].expand(-1, path.shape[1], -1)], -1))


class GapGRU(nn.Module):
    """x(t_k) = R h_k with h_k = GRU(t_k - t_(k-1), h_(k-1)); h at the start of the window is made of z.

    The same network runs to later times by positive gaps and to earlier times by negative ones.
    """

    def __init__(self, units: int):
        super().__init__()
        gru = nn.GRU(1, units, batch_first=True)
        self.initial_state = LatentState(gru, Encoder(units), LATENT, scale=0.1, min_scale=1e-3)
        self.rnn, self.readout = ContextualRNN(gru, self.initial_state), nn.Linear(units, 2)

    def run(self, h: Tensor, times: Tensor, samples: Samples) -> Tensor:
        points = torch.cat([times.clamp(min=0), times.clamp(max=0).flip(1)])
        gaps = points.diff(dim=1, prepend=torch.zeros(len(points), 1))
        own_side = torch.cat([times > 0, (times < 0).flip(1)])  # the times of the other side are left out
        output, _ = self.rnn(gaps[..., None], torch.cat([h, h], 1), mask=own_side)
        forward, backward = output.chunk(2)
        return self.readout(torch.where((times > 0)[..., None], forward, backward.flip(1)))


Model = LatentODE | GapGRU


def predict(model: Model, samples: Samples, times: Tensor) -> tuple[Tensor, Posterior | None]:
    """Positions (B, T, 2) at ascending times (B, T), and the distribution of z where there is one.

    z is drawn in training; in evaluation it is the mean.
    """
    state = model.initial_state
    if not state.reads_context:
        return model.run(state(batch_size=len(times)), times - START, samples), None
    posterior = state.posterior(samples)
    start = posterior.rsample() if model.training else posterior.mean
    return model.run(start, times - START, samples), posterior


def bound(model: Model, samples: Samples, warm: float) -> Tensor:
    """The bound on the negative log-likelihood of all samples, in nats a spiral less a constant."""
    path, posterior = predict(model, samples, samples.times)
    nats = (path - samples.x).square().sum((1, 2)) / (2 * NOISE**2)
    return (nats if posterior is None else nats + warm * posterior.kl()).mean()

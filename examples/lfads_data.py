"""Spikes of neurons that follow a Lorenz system, and what lfads.py is compared with that learns no dynamics."""

import numpy
import torch
from scipy.integrate import solve_ivp
from scipy.ndimage import gaussian_filter1d
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, PoissonRegressor
from torch import Tensor

NEURONS, HELD_IN, BIN = 40, 30, 0.01  # ten neurons are predicted but never shown; seconds a bin


def record(trials: int, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spike counts and rates per bin (trials, steps, 40), and the Lorenz states (trials, steps, 3), standardised.

    Every trial starts elsewhere on the attractor; log-rates are random linear functions of the state.
    """
    rng = numpy.random.default_rng(seed)

    def derivative(t: float, state: numpy.ndarray) -> numpy.ndarray:
        x, y, z = state.reshape(3, trials)
        return numpy.concatenate([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    start = rng.normal(scale=5, size=(3, trials)) + numpy.array([[0], [0], [25]])
    times = 5 + BIN * numpy.arange(steps)
    solution = solve_ivp(derivative, (0, times[-1]), start.ravel(), t_eval=times, rtol=1e-7)
    state = solution.y.reshape(3, trials, steps).transpose(1, 2, 0)
    state = (state - state.mean((0, 1))) / state.std((0, 1))
    rates = numpy.exp(state @ rng.normal(scale=0.55, size=(3, NEURONS)) + numpy.log(0.3))
    arrays = rng.poisson(rates), rates, state
    spikes, rates, state = (torch.tensor(array, dtype=torch.float32) for array in arrays)
    return spikes, rates, state


def r_squared(predicted: Tensor, truth: Tensor) -> float:
    """Of (trials, steps, channels), the mean over channels."""
    residual = (predicted - truth).square().sum((0, 1))
    return float((1 - residual / (truth - truth.mean((0, 1))).square().sum((0, 1))).mean())


def bits_per_spike(rates: Tensor, spikes: Tensor) -> float:
    """Log-likelihood above that of each neuron's mean rate, in bits a spike (Pei et al. 2021, co-smoothing)."""
    mean = spikes.mean((0, 1), keepdim=True)
    gain = (spikes * (rates / mean).log() - (rates - mean)).sum()
    return float(gain / spikes.sum() / numpy.log(2))


def decoded(features: Tensor, targets: Tensor, held_out: Tensor) -> Tensor:
    """Targets (trials, steps, k) of held-out trials by linear regression on features of both."""
    model = LinearRegression().fit(features.flatten(0, 1), targets.flatten(0, 1))
    return torch.tensor(model.predict(held_out.flatten(0, 1))).view(*held_out.shape[:2], -1)


def without_dynamics(train: Tensor, test: Tensor, components: int | None, width: float) -> Tensor:
    """Rates of all neurons by smoothing the shown ones, or their principal components, (trials, steps, 40).

    Those of the shown neurons are the smoothed counts; a Poisson regression on these gives the others.
    """
    smooth = [gaussian_filter1d(part[..., :HELD_IN].double().numpy(), width, axis=1) for part in (train, test)]
    shape = test.shape[:2]
    fit, held_out = (part.reshape(-1, HELD_IN) for part in smooth)
    if components is not None:
        pca = PCA(components).fit(fit)
        fit, held_out = (pca.inverse_transform(pca.transform(part)) for part in (fit, held_out))
    counts = train[..., HELD_IN:].flatten(0, 1).numpy()
    others = [
        PoissonRegressor(alpha=1e-3, solver="newton-cholesky").fit(fit, column).predict(held_out) for column in counts.T
    ]
    rates = numpy.concatenate([held_out, numpy.stack(others, 1)], 1)
    return torch.tensor(rates).float().clamp(min=1e-3).view(*shape, NEURONS)

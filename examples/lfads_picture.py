"""The picture of lfads.py: inferred rates beside the true ones, and where trials start in the latent space."""

import torch
from evidence import INK, PALETTE, styled
from matplotlib.figure import Figure
from torch import Tensor


@styled()
def draw(truth: Tensor, draws: Tensor, z: Tensor, start: Tensor) -> Figure:
    """True rates of a trial (T, neurons), samples (S, T, neurons), and z (trials, k) with the color of `start`."""
    rates = draws.mean(0)
    figure = Figure(figsize=(10, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for neuron in range(4):
        left.plot(draws[:10, :, neuron].T + 2 * neuron, color=PALETTE[0], linewidth=0.5, alpha=0.3)
        left.plot(
            rates[:, neuron] + 2 * neuron, color=PALETTE[0], label=None if neuron else "inferred, and posterior samples"
        )
        left.plot(truth[:, neuron] + 2 * neuron, color=INK, linestyle="--", label=None if neuron else "true")
    left.set(xlabel="bin of 10 ms", ylabel="spikes a bin, each neuron two higher", title="Rates in a trial never seen")
    left.legend()
    z = (z - z.mean(0)) @ torch.linalg.svd(z - z.mean(0), full_matrices=False)[2][:2].T
    points = right.scatter(*z.T, c=start, cmap="PuOr", s=12)
    figure.colorbar(points, ax=right, label="Lorenz x at the start")
    right.set(xlabel="first component of z", ylabel="second", title="Where trials start")
    return figure

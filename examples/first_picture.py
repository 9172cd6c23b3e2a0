"""The picture of the README: a label, the states that are drawn for it, and the digits that are painted from them.

    python examples/first_picture.py

Trains the painter of digits.py, row by row, and draws ten states for each of three labels. The label reaches the
network through h(0) alone.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from digits import digits
from digits_model import SIDE, Painter, train
from evidence import PALETTE, styled, write_picture
from matplotlib.figure import Figure
from torch import Tensor, nn

from contextual_rnn import NormalState

LABELS, COLOURS, COLUMNS = (0, 3, 5), PALETTE[:3], 8


@dataclass(frozen=True)
class Options:
    updates: int = 1000
    units: int = 128
    draws: int = 40
    """States a label that the picture shows."""
    out: Path = Path("docs/figures")
    quick: bool = False
    """A small setting that ends in seconds and says nothing about digits."""


def in_the_plane(states: Tensor) -> Tensor:
    """States (labels, draws, units) in the plane of their first two principal components, (labels, draws, 2).

    It is turned so that the first label stands right above the last, as their digits do.
    """
    centred = states - states.flatten(0, 1).mean(0)
    points = centred @ torch.linalg.svd(centred.flatten(0, 1), full_matrices=False)[2][:2].T
    up = nn.functional.normalize(points[0].mean(0) - points[-1].mean(0), dim=0)
    return points @ torch.stack([up.flip(0) * up.new_tensor([1, -1]), up], 1)


@styled()
def draw(points: Tensor, images: Tensor) -> Figure:
    """Left the labels, in the middle their states (labels, draws, 2), right the digits (labels, COLUMNS, 64)."""
    figure = Figure(figsize=(8.6, 2.7), dpi=150, layout="none")
    places = (0, 0.1), (0.13, 0.25), (0.41, 0.59)  # from where, and how wide
    left, middle, right = (figure.add_axes((x, 0.03, width, 0.82), xticks=[], yticks=[]) for x, width in places)
    for row, (label, colour) in enumerate(zip(LABELS, COLOURS, strict=True)):
        left.text(0, row, str(label), color=colour, fontsize=24, ha="center", va="center", weight="bold")
        middle.scatter(*points[row].T, s=9, color=colour, alpha=0.6)
        for column, image in enumerate(images[row]):
            place = (column, column + 0.94, row + 0.47, row - 0.47)
            right.imshow(image.view(SIDE, SIDE), cmap="gray_r", vmin=0, vmax=16, extent=place)
        right.plot([-0.12, -0.12], [row - 0.44, row + 0.44], color=colour, lw=3)
    middle.margins(0.15)
    left.set(title="context", xlim=(-1, 1), ylim=(len(LABELS) - 0.5, -0.5))
    middle.set_title("states drawn from N(g(context), \N{GREEK SMALL LETTER SIGMA}\N{SUPERSCRIPT TWO})")
    right.set(title="what is painted, each digit from a state of its own", aspect="auto")
    right.set(xlim=(-0.2, COLUMNS), ylim=left.get_ylim())
    for axes in (left, right):
        axes.spines[:].set_visible(False)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, updates=3, units=16)
    started = time.perf_counter()
    torch.manual_seed(0)
    images, _, labels, _ = digits(0)
    model = Painter(SIDE, options.units, lambda lstm: NormalState(lstm, nn.Embedding(10, 32)))
    train(model, images, labels, options.updates, "first picture")
    rng, asked = torch.Generator().manual_seed(0), torch.tensor(LABELS)
    with torch.no_grad():
        h, _ = model.rnn.initial_state.sample(asked, num_samples=options.draws, generator=rng)
    painted = model.paint(asked.repeat_interleave(COLUMNS), len(LABELS) * COLUMNS, rng)
    states = in_the_plane(h[0].view(len(LABELS), options.draws, -1))
    write_picture(options.out / "first-picture.png", draw(states, painted.view(len(LABELS), COLUMNS, -1)))
    print(f"{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main(tyro.cli(Options))

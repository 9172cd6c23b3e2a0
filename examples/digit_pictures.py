"""Painted digits as a grid, and how they come about as an animation."""

import tempfile
from pathlib import Path

import torch
from evidence import styled, write_picture
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from contextual_rnn._whole_file import write_whole

SIDE = 8


def board(images: Tensor, columns: int = 10) -> Tensor:
    """Images (N, 64) row after row as one, with a white rim around each."""
    grid = functional.pad(images.view(-1, columns, SIDE, SIDE), (1, 1, 1, 1))
    return grid.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


@styled()
def draw(images: Tensor, unit: str, out: Path) -> None:
    """Write digits-<unit>.png and .gif of a hundred images, a line of ten for each label."""
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    shown = axes.imshow(board(images), cmap="gray_r", vmin=0, vmax=16)
    side = SIDE + 2
    axes.set_yticks([side * (label + 0.5) for label in range(len(images) // 10)], range(len(images) // 10))
    axes.set(xticks=[], ylabel="label", title="painted from its state")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    write_picture(out / f"digits-{unit}.png", figure)

    def frame(painted: int) -> None:
        shown.set_data(board(torch.where(torch.arange(SIDE * SIDE) < painted, images, 0)))

    frames = list(range(0, SIDE * SIDE + 1, SIDE if unit == "row" else 2)) + [SIDE * SIDE] * 8
    with tempfile.TemporaryDirectory() as scratch:
        animation = Path(scratch, "animation.gif")
        FuncAnimation(figure, frame, frames).save(animation, PillowWriter(fps=4 if unit == "row" else 12))
        write_whole(out / f"digits-{unit}.gif", animation.read_bytes())

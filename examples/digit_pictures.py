"""Generated digits as a grid, ten a class, and how they come about as an animation."""

from pathlib import Path

import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

SIDE = 8


def draw(images: Tensor, labels: Tensor, unit: str, out: Path) -> None:
    """Write digits-<unit>.png and .gif of images (N, 64), of which the first ten of each label are shown."""
    rows = torch.cat([torch.where(labels == label)[0][:10] for label in range(10)])
    grid = images[rows].view(10, -1, SIDE, SIDE)
    figure = Figure(figsize=(5, 5), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    shown = axes.imshow(torch.zeros(1, 1), cmap="gray_r", vmin=0, vmax=16)

    def frame(step: int) -> None:
        painted = torch.where(torch.arange(SIDE * SIDE).view(SIDE, SIDE) < step, grid, 0.0)
        board = functional.pad(painted, (1, 1, 1, 1)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        shown.set_data(board.numpy())
        shown.set_extent((0, board.shape[1], board.shape[0], 0))

    frame(SIDE * SIDE)
    figure.savefig(out / f"digits-{unit}.png")
    frames = list(range(0, SIDE * SIDE + 1, SIDE if unit == "row" else 2)) + [SIDE * SIDE] * 8
    FuncAnimation(figure, frame, frames).save(out / f"digits-{unit}.gif", PillowWriter(fps=4 if unit == "row" else 12))

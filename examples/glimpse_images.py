"""Images of several digits for glimpses.py: made, looked at through a small window, and drawn."""

import torch
from evidence import GRID, PALETTE, styled
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

IMAGE, DIGIT, DIGITS, EACH, COARSE = 32, 8, 3, 2, 4  # pixels, pixels, digits an image, glimpses a digit, times smaller


def scatter(digits: Tensor, labels: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images (count, IMAGE, IMAGE), their labels from left to right, and the centres (x, y), from -1 to 1."""
    chosen = torch.randint(len(digits), (count, DIGITS), generator=rng)
    room = IMAGE - DIGITS * DIGIT
    x = torch.randint(room + 1, (count, DIGITS), generator=rng).sort(1).values + DIGIT * torch.arange(DIGITS)
    y = torch.randint(IMAGE - DIGIT + 1, (count, DIGITS), generator=rng)
    images, pixel = torch.zeros(count, IMAGE, IMAGE), torch.arange(DIGIT)
    rows, columns = (y[..., None] + pixel)[..., None], (x[..., None] + pixel)[..., None, :]
    images[torch.arange(count)[:, None, None, None], rows, columns] = digits[chosen]
    return images, labels[chosen], (torch.stack([x, y], -1) + DIGIT / 2) / IMAGE * 2 - 1


def crop(images: Tensor, places: Tensor) -> Tensor:
    """Glimpses (B, DIGIT ** 2) around places (B, 2), between the pixels too."""
    offsets = (torch.arange(DIGIT) - (DIGIT - 1) / 2) / IMAGE * 2
    window = torch.stack(torch.meshgrid(offsets, offsets, indexing="xy"), -1)
    return functional.grid_sample(images[:, None], places[:, None, None] + window, align_corners=False).flatten(1)


@styled()
def draw(images: Tensor, labels: Tensor, read: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    """A few images as the coarse view and the glimpses show them; the numbers are steps, the titles what was read."""
    figure = Figure(figsize=(10, 6.4))
    grid = figure.subplots(3, len(images))
    for column, image in enumerate(images):
        grid[0, column].imshow(functional.avg_pool2d(image[None], COARSE)[0], cmap="gray_r")
        grid[0, column].set_title(f"true: {' '.join(map(str, labels[column].tolist()))}", fontsize=9)
        for axes, name in zip(grid[1:, column], ("coarse view sets the state", "zero"), strict=True):
            scores, places = read[name]
            axes.imshow(image, cmap="gray_r")
            for step, (x, y) in enumerate(((places[column] + 1) / 2 * IMAGE - 0.5).tolist()):
                color, low = PALETTE[step // EACH], DIGIT / 2
                across, up = torch.tensor([[-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1]]) * low
                axes.plot(x + across, y + up, color=color)
                axes.text(x - low, y - low, str(step + 1), color=color, fontsize=8, va="bottom", in_layout=False)
            axes.set_title(f"read: {' '.join(map(str, scores[column].argmax(-1).tolist()))}", fontsize=9)
            axes.set(xlim=(-4, IMAGE + 3), ylim=(IMAGE + 3, -4))  # glimpses reach beyond the image
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(GRID)
        axes.spines[:].set_visible(True)
    for axes, name in zip(grid[:, 0], ("coarse view", "it sets the state", "zero state"), strict=True):
        axes.set_ylabel(name)
    return figure

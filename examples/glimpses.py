"""Image -> sequence: a coarse view of a whole image says where to look; glimpses are the steps, labels come out.

Three handwritten digits (scikit-learn's, 8 x 8) lie somewhere in an image of 32 x 32, to be named from left to right.
At every step the network sees a glimpse of 8 x 8 where its state told it to look, two for each digit. As in Ba, Mnih
and Kavukcuoglu (2014) the whole image, four times smaller, sets the initial state: a digit is two by two pixels there,
enough to find it and too little to read it. A network that starts at zero has to search with the same glimpses.

A glimpse is a bilinear crop around a place that is read off the state, so all is trained by back-propagation, as with
Jaderberg et al. (2015); the source draws places at random and trains by their reward. Where the digits are is taught
along with what they are, from either start: labels alone take far longer. One GRU stands for the source's two networks.

Beside it: the coarse view as a further input of every step, and as a state whose glimpses show nothing, which tells how
much is read off the coarse view alone. Test images are made of digits that training never sees.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from evidence import over_seeds, write, write_picture
from glimpse_images import COARSE, DIGIT, DIGITS, EACH, IMAGE, crop, draw, scatter
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from contextual_rnn import ConstantState, ContextState

VARIANTS = {  # where the coarse view goes, and whether the glimpses show anything
    "zero": ("nowhere", True),
    "coarse view sets the state": ("state", True),
    "coarse view at every step": ("input", True),
    "coarse view sets the state, blind": ("state", False),
}


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    """Each with digits held out, weights and images of its own."""
    updates: int = 1000
    """Training batches, of 64 images that are made as they are needed."""
    units: int = 96
    test_images: int = 2000
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


class Reader(nn.Module):
    def __init__(self, coarse: str, sees: bool, units: int):
        super().__init__()
        encoder = nn.Sequential(nn.Flatten(), nn.Linear((IMAGE // COARSE) ** 2, 128), nn.ReLU())
        self.coarse, self.sees = coarse, sees
        self.cell = nn.GRUCell(64, units)
        self.initial_state = ContextState(self.cell, encoder) if coarse == "state" else ConstantState(self.cell)
        self.hint = nn.Sequential(encoder, nn.Linear(128, 64)) if coarse == "input" else None
        self.what, self.where = nn.Linear(DIGIT**2, 64), nn.Linear(2, 64)
        self.place, self.label = nn.Linear(units, 2), nn.Linear(units, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the labels (B, DIGITS, 10), and the places looked at (B, DIGITS * EACH, 2)."""
        small = functional.avg_pool2d(images, COARSE)
        h = self.initial_state(small, len(images))
        hint = 0 if self.hint is None else self.hint(small)
        scores, places = [], []
        for step in range(DIGITS * EACH):
            places.append(torch.tanh(self.place(h)))
            glimpse = crop(images, places[-1]) * self.sees
            h = self.cell(functional.relu(self.what(glimpse) + self.where(places[-1]) + hint), h)
            if step % EACH == EACH - 1:
                scores.append(self.label(h))
        return torch.stack(scores, 1), torch.stack(places, 1)


def train(name: str, digits: Tensor, labels: Tensor, options: Options, seed: int) -> Reader:
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)  # of its own, so that all see the same images
    model = Reader(*VARIANTS[name], options.units)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, options.updates)
    for _ in trange(options.updates, desc=f"{name}, seed {seed}", leave=False):
        images, target, centres = scatter(digits, labels, 64, rng)
        scores, places = model(images)
        loss = functional.cross_entropy(scores.flatten(0, 1), target.flatten())
        loss = loss + 3 * functional.mse_loss(places, centres.repeat_interleave(EACH, 1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=8, units=24, test_images=100)
    started, data, found = time.perf_counter(), load_digits(), {name: {} for name in VARIANTS}
    digits, labels = torch.tensor(data.images).float() / 16, torch.tensor(data.target)
    for seed in range(options.seeds):
        rng, read = torch.Generator().manual_seed(1000 + seed), {}
        order = torch.randperm(len(digits), generator=rng)
        known, unseen = order[:1200], order[1200:]
        images, target, centres = scatter(digits[unseen], labels[unseen], options.test_images, rng)
        for name in VARIANTS:
            model = train(name, digits[known], labels[known], options, seed)
            with torch.no_grad():
                scores, places = read[name] = model(images)
            hit = scores.argmax(-1) == target
            first = (places[:, 0] - centres[:, 0]).norm(dim=-1) * IMAGE / 2
            for what, value in (("labels", hit), ("whole images", hit.all(1)), ("pixels off at first", first)):
                found[name].setdefault(what, []).append(float(value.float().mean()))
        figures = {name: {what: over_seeds(each) for what, each in values.items()} for name, values in found.items()}
        shown = {name: (scores[:5], places[:5]) for name, (scores, places) in read.items()}
        write_picture(options.out / "glimpses.png", draw(images[:5], target[:5], shown))
        write(options.out / "glimpses.json", asdict(options), figures, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

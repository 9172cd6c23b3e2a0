"""Label -> sequence: handwritten digits drawn pixel by pixel or row by row, the label in the initial state alone.

python examples/digits.py                 # 64 steps, one pixel each
python examples/digits.py --unit row      # 8 steps, one row each
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from digit_pictures import draw
from evidence import over_seeds, write
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from contextual_rnn import ConstantState, ContextState, ContextualRNN, FreeState, NormalState, generate

LEVELS, SIDE = 17, 8  # of grey, and pixels a side
# (initial state, is the label appended to every step?)
VARIANTS = {
    "normal": ("normal", False),
    "context": ("context", False),
    "label at every step": ("zero", True),
    "zero": ("zero", False),
    "free": ("free", False),
}


@dataclass(frozen=True)
class Options:
    unit: Literal["pixel", "row"] = "pixel"  # what one step draws
    seeds: int = 3
    updates: int = 1500
    units: int = 128
    per_class: int = 50  # images generated for each label
    out: Path = Path("results")
    quick: bool = False  # small enough for a test; says nothing about digits


class Painter(nn.Module):
    """p(image | label): a GRU that reads the pixels so far, with logits of the 17 levels of the next pixel or row.

    Read row by row, the pixels of a row are drawn independently of each other, given the rows above.
    """

    def __init__(self, variant: str, width: int, units: int):
        super().__init__()
        state, self.told = VARIANTS[variant]
        self.width = width
        gru = nn.GRU(width + (10 if self.told else 0), units, batch_first=True)
        net = nn.Sequential(nn.Embedding(10, 64), nn.ReLU())
        states = {"zero": ConstantState(gru), "free": FreeState(gru), "context": ContextState(gru, net)}
        states["normal"] = NormalState(gru, net, scale=0.1)
        self.rnn = ContextualRNN(gru, states[state])
        self.readout = nn.Linear(units, width * LEVELS)

    def inputs(self, values: Tensor, labels: Tensor) -> Tensor:
        """Levels (B, ..., width) to what the GRU reads, the label appended where it is told at every step."""
        scaled = values / 8 - 1
        if not self.told:
            return scaled
        hot = functional.one_hot(labels, 10).float().view(len(labels), *[1] * (values.ndim - 2), 10)
        return torch.cat([scaled, hot.expand(*values.shape[:-1], 10)], -1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood in nats per pixel; with a normal state at its mean in evaluation."""
        steps = images.view(len(images), -1, self.width)
        before = functional.pad(steps[:, :-1], (0, 0, 1, 0))
        output, _ = self.rnn(self.inputs(before.float(), labels), context=labels)
        logits = self.readout(output).unflatten(-1, (self.width, LEVELS))
        return functional.cross_entropy(logits.flatten(0, -2), steps.flatten())

    @torch.no_grad()
    def paint(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        def step(output: Tensor, value: Tensor) -> Tensor:
            levels = self.readout(output).unflatten(-1, (self.width, LEVELS)).softmax(-1)
            return torch.multinomial(levels.flatten(0, 1), 1, generator=generator).view(-1, self.width).float()

        first = torch.zeros(len(labels), self.width)
        steps = SIDE * SIDE // self.width
        made = generate(
            self.rnn,
            step,
            first,
            num_steps=steps,
            context=labels,
            embed=lambda value: self.inputs(value, labels),
            generator=generator,
        )
        return made.reshape(len(labels), -1)


def train(variant: str, images: Tensor, labels: Tensor, options: Options, seed: int) -> Painter:
    torch.manual_seed(seed)
    model = Painter(variant, SIDE if options.unit == "row" else 1, options.units)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, options.updates)
    for _ in trange(options.updates, desc=f"{variant}, seed {seed}", leave=False):
        rows = torch.randint(len(images), (64,))
        loss = model.loss(images[rows], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def diversity(images: Tensor, labels: Tensor) -> float:
    """Mean distance of two images of one class, over the classes."""
    return float(torch.stack([torch.pdist(images[labels == label]).mean() for label in range(10)]).mean())


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=3, units=16, per_class=10)
    started, data = time.perf_counter(), load_digits()
    images, labels = torch.tensor(data.data).long(), torch.tensor(data.target).long()
    told, judged = torch.arange(10).repeat_interleave(options.per_class), []
    measures = ("recognised", "recognised, shuffled labels", "diversity / real", "nats per pixel")
    figures = {name: {measure: [] for measure in measures} for name in VARIANTS}
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        split = train_test_split(images, labels, test_size=0.3, random_state=seed, stratify=labels)
        seen, held_out, seen_labels, held_labels = split
        judge = SVC(gamma="scale").fit(seen, seen_labels)
        judged.append(judge.score(held_out, held_labels))
        for name, found in figures.items():
            model, generator = train(name, seen, seen_labels, options, seed), torch.Generator().manual_seed(seed)
            made = model.paint(told, generator)
            found["recognised"].append(judge.score(made, told))
            found["recognised, shuffled labels"].append(judge.score(made, told[torch.randperm(len(told))]))
            found["diversity / real"].append(diversity(made, told) / diversity(held_out.float(), held_labels))
            found["nats per pixel"].append(model.loss(held_out, held_labels).item())
            if name == "normal" and seed == 0:
                draw(made, told, options.unit, options.out)
    figures = {name: {key: over_seeds(values) for key, values in found.items()} for name, found in figures.items()}
    figures["classifier on real held-out digits"] = over_seeds(judged)
    write(options.out / f"digits-{options.unit}.json", asdict(options), figures, started)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Label -> sequence: handwritten digits painted pixel by pixel or row by row, the label in the initial state alone.

    python examples/digits.py                 # 64 steps, one pixel each
    python examples/digits.py --unit row      # 8 steps, one row each

The label sets h(0), as the mean of a normal distribution or as h(0) itself; beside them what people do instead, the
label appended to the input at every step, and states that know no label. A classifier trained on the same real images
says whether what was painted is what was asked for. Likelihoods are in nats per pixel, on digits held out; where h(0)
is random they are the bound by many draws.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from digit_pictures import draw
from digits_model import SIDE, Painter, train
from evidence import over_seeds, write
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextState, FreeState, NormalState

# (initial state, is the label appended to every step?)
VARIANTS = {
    "normal": (lambda lstm: NormalState(lstm, nn.Embedding(10, 32)), False),
    "context": (lambda lstm: ContextState(lstm, nn.Embedding(10, 32)), False),
    "label at every step": (ConstantState, True),
    "zero": (ConstantState, False),
    "free": (FreeState, False),
}


@dataclass(frozen=True)
class Options:
    unit: Literal["pixel", "row"] = "pixel"
    """What one step paints."""
    seeds: int = 1
    """Each with a split of the images and a training of its own."""
    updates: int = 1000
    units: int = 128
    per_class: int = 50
    """Images painted for each label."""
    draws: int = 16
    """Of h(0), for the bound on the likelihood."""
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds and says nothing about digits."""


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 64) of 17 levels to train on and held out, and their labels."""
    data = load_digits()
    images, labels = torch.tensor(data.data).float(), torch.tensor(data.target).long()
    parts: Any = train_test_split(images, labels, test_size=0.3, random_state=seed, stratify=labels)
    return parts


def diversity(images: Tensor, labels: Tensor) -> float:
    """Mean distance of two images of one class, over the classes there are."""
    return float(torch.stack([torch.pdist(images[labels == label]).mean() for label in labels.unique()]).mean())


def judge(model: Painter, classifier: SVC, held_out: tuple[Tensor, Tensor], options: Options) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    told = torch.arange(10).repeat_interleave(options.per_class)
    made, real = model.paint(told, len(told), generator), diversity(*held_out)
    state = model.rnn.initial_state
    many, one = model.bounds(*held_out, options.draws if isinstance(state, NormalState) else 1, generator)
    found = {
        "recognised": classifier.score(made, told),
        "recognised, shuffled labels": classifier.score(made, told[torch.randperm(len(told), generator=generator)]),
        "diversity / real": diversity(made, told) / real,
        "nats per pixel": many,
    }
    if isinstance(state, NormalState):
        at_mean = model.paint(told, len(told), generator, sample=False)
        normal = state.distribution(torch.arange(10))["h"]
        found |= {
            "nats per pixel, one draw": one,
            "diversity / real, h(0) at its mean": diversity(at_mean, told) / real,
            "sigma": float(normal.scale.detach().mean()),
            "deviation of the labels' means": float(normal.mean.detach().std(0).mean()),
        }
    return found


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=3, units=16, per_class=10, draws=2)
    started, values, judged = time.perf_counter(), {name: {} for name in VARIANTS}, []
    for seed in range(options.seeds):
        seen, held_out, seen_labels, held_labels = digits(seed)
        classifier = SVC(gamma="scale").fit(seen, seen_labels)
        judged.append(classifier.score(held_out, held_labels))
        for name, (state, told) in VARIANTS.items():
            torch.manual_seed(seed)
            model = Painter(SIDE if options.unit == "row" else 1, options.units, state, told)
            train(model, seen, seen_labels, options.updates, f"{name}, seed {seed}")
            for measure, value in judge(model, classifier, (held_out, held_labels), options).items():
                values[name].setdefault(measure, []).append(value)
            if name == "normal" and seed == 0:
                asked = torch.arange(10).repeat_interleave(10)
                draw(model.paint(asked, 100, torch.Generator().manual_seed(1)), options.unit, options.out)
        told = zip(values["normal"]["nats per pixel"], values["label at every step"]["nats per pixel"], strict=True)
        more = over_seeds([normal - label for normal, label in told])
        figures = {name: {key: over_seeds(each) for key, each in found.items()} for name, found in values.items()}
        figures["nats per pixel, normal less label at every step"] = more
        figures["classifier on real held-out digits"] = over_seeds(judged)
        write(options.out / f"digits-{options.unit}.json", asdict(options), figures, started)  # it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Label -> drawing: parts of Japanese characters, stroke by stroke, the label in the initial state alone.

A drawing is a sequence of steps of both kinds, discrete and continuous: the pen jumps, draws or stops, and by how much
it moves. The label sets the mean of a normal distribution over h(0); beside it a zero state with the label appended to
every input, and one that knows no label. Every drawing ends where the model says so.

A classifier of pictures of real drawings says whether what was drawn is what was asked for. Midway between the states
of two labels (for the label at every step: with half of each) it says whether the drawing is one of the two.
"""

import itertools
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from evidence import INK, PALETTE, over_seeds, styled, write, write_picture
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from strokes_data import EXTENT, JUMP, LABELS, STOP, drawings, pictures
from strokes_model import MAX_STEPS, Writer, train
from torch import Tensor, nn
from torch.nn.functional import one_hot

from contextual_rnn import ConstantState, NormalState, interpolate

# (initial state, is the label appended to every input?)
VARIANTS = {
    "normal": (lambda lstm: NormalState(lstm, nn.Embedding(len(LABELS), 32)), False),
    "label at every step": (ConstantState, True),
    "zero": (ConstantState, False),
}
EVERY = len(LABELS)


@dataclass(frozen=True)
class Options:
    seeds: int = 5  # each with a split of the drawings and a training of its own
    updates: int = 600
    units: int = 128
    per_label: int = 40  # drawings made for each label
    draws: int = 4  # of h(0), for the bound on the likelihood
    out: Path = Path("results")
    quick: bool = False  # a small setting that ends in seconds


def diversity(images: Tensor, labels: Tensor) -> float:
    """Mean distance of two pictures of one label, over the labels there are."""
    return float(torch.stack([torch.pdist(images[labels == label]).mean() for label in labels.unique()]).mean())


def midway(model: Writer, classifier: SVC, generator: torch.Generator) -> float:
    """Share of the drawings from midway between two labels, of all pairs, that are recognised as one of the two."""
    first, second = torch.tensor(list(itertools.permutations(range(EVERY), 2))).T
    state, shares = model.rnn.initial_state, (one_hot(first, EVERY) + one_hot(second, EVERY)) / 2
    points = interpolate(state(first, len(first)), state(second, len(first)), 3, spec=state.spec)
    drawn = model.draw(shares, generator, hx=tuple(leaf[:, 1::3].contiguous() for leaf in points)).values[:, 0]
    seen = torch.tensor(classifier.predict(pictures(drawn)))
    return float(((seen == first) | (seen == second)).float().mean())


@torch.no_grad()
def judge(model: Writer, classifier: SVC, held_out: list[Tensor], options: Options) -> dict[str, float]:
    generator, labels = torch.Generator().manual_seed(0), torch.arange(EVERY).repeat_interleave(options.per_label)
    real = diversity(pictures(held_out[0]), held_out[2])
    random = isinstance(model.rnn.initial_state, NormalState)
    measures = {"nats a step": model.bound(*held_out, options.draws if random else 1, generator)}
    for name, temperature in (("", 1.0), (", temperature 0.5", 0.5)):
        made = model.draw(one_hot(labels, EVERY), generator, labels, temperature=temperature)
        images = pictures(made.values[:, 0])
        measures |= {
            f"recognised{name}": classifier.score(images, labels),
            f"diversity / real{name}": diversity(images, labels) / real,
            f"ended{name}": float((made.lengths < MAX_STEPS).float().mean()),
        }
    return measures | {"midway, one of the two": midway(model, classifier, generator)}


@styled()
def draw(model: Writer) -> Figure:
    """Four drawings of each label, and paths between the states of two labels, the strokes in colors."""
    generator, labels = torch.Generator().manual_seed(1), torch.arange(EVERY)
    rows = [model.draw(one_hot(labels, EVERY), generator, labels, temperature=0.5).values[:, 0] for _ in range(4)]
    state, (first, second) = model.rnn.initial_state, torch.tensor([[0, 6], [1, 14]]).T
    hx = interpolate(state(first), state(second), EVERY, spec=state.spec)
    paths = model.draw(torch.zeros(2 * EVERY, EVERY), generator, hx=hx, temperature=0.1).values[:, 0]
    figure = Figure(figsize=(10, 4.2))
    axes, width = figure.subplots(), 2.2 * EXTENT
    for place, drawn in enumerate([*torch.cat(rows), *paths]):
        drawn = drawn[drawn[:, 4] != STOP]
        corner = torch.tensor([place % EVERY, -(place // EVERY)]) * width
        strokes = (drawn[:, 4] == JUMP).cumsum(0) - 1
        for stroke in strokes.unique().tolist():
            points = drawn[strokes == stroke, 2:4] + corner
            axes.plot(*points.T, color=PALETTE[stroke % len(PALETTE)], linewidth=1.2, solid_capstyle="round")
    for column, (meaning, _) in enumerate(LABELS.values()):
        axes.text(column * width, 1.2 * EXTENT, meaning, color=INK, fontsize=8, ha="center")
    axes.set(aspect="equal", xlim=(-EXTENT, (EVERY - 1) * width + EXTENT), ylim=(-5 * width - EXTENT, 1.5 * EXTENT))
    axes.set_axis_off()
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=5, units=16, per_label=2, draws=2)
    started, values, judged = time.perf_counter(), {name: {} for name in VARIANTS}, []
    options.out.mkdir(parents=True, exist_ok=True)
    data = drawings(options.quick)
    for seed in range(options.seeds):
        parts = train_test_split(*data, test_size=0.3, random_state=seed, stratify=data[2])
        known, held_out = parts[::2], parts[1::2]
        classifier = SVC(gamma="scale").fit(pictures(known[0]), known[2])
        judged.append(classifier.score(pictures(held_out[0]), held_out[2]))
        for name, (state, at_every_step) in VARIANTS.items():
            torch.manual_seed(seed)
            model = train(Writer(options.units, state, at_every_step), known, options.updates, f"{name}, seed {seed}")
            for measure, value in judge(model, classifier, held_out, options).items():
                values[name].setdefault(measure, []).append(value)
            if name == "normal" and seed == 0:
                write_picture(options.out / "strokes.png", draw(model))
        figures = {name: {key: over_seeds(each) for key, each in by.items()} for name, by in values.items()}
        both = zip(values["normal"]["nats a step"], values["label at every step"]["nats a step"], strict=True)
        figures["nats a step, normal less label at every step"] = over_seeds([ours - theirs for ours, theirs in both])
        figures["classifier on real held-out drawings"] = over_seeds(judged)
        write(options.out / "strokes.json", asdict(options), figures, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

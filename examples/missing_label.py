"""Missing context: one painter of digits with a label and without, how strongly the label counts, and a new category.

    python examples/missing_label.py

In training a share of the labels is dropped and a learned null state stands in (`ContextDropout`). The painter then
works without a label, and a guidance strength moves h(0) between the null state (0) and the label's (1), and beyond.

It never sees a nine. Asked for one it does not fail: nine falls into the bucket for unknown categories. And where a few
nines turn up later, a state of their own is learned from them, 256 numbers, with the network left as it is.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from digit_pictures import board
from digits import digits, diversity
from digits_model import SIDE, Painter, train
from evidence import over_seeds, styled, write, write_picture
from matplotlib.figure import Figure
from sklearn.svm import SVC
from torch import Tensor, nn

from contextual_rnn import Categorical, ContextDropout, ContextNet, ContextualRNN, FreeState, NormalState

NEW = 9  # the category that training does not have
GUIDANCE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Options:
    seeds: int = 1
    updates: int = 1000
    units: int = 128
    dropped: float = 0.2
    """Share of the training labels that are missing; half as many are taken for unknown ones."""
    few: int = 20
    """Nines that a state is learned from."""
    per_class: int = 50
    """Images painted for each label."""
    draws: int = 16
    """Of h(0), for the bound on the likelihood."""
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds and says nothing about digits."""


def painter(options: Options) -> tuple[Painter, Callable[[Tensor], dict[str, Tensor]]]:
    """A model, and what makes contexts of labels: a new one falls into the bucket for unknown categories."""
    encoder = ContextNet({"digit": Categorical(tuple(range(NEW)), unknown=True, dropout=options.dropped / 2)})

    def state(lstm: nn.LSTM) -> ContextDropout:
        return ContextDropout(NormalState(lstm, encoder), options.dropped, null=NormalState(lstm, FreeState(lstm)))

    return Painter(SIDE, options.units, state), lambda labels: encoder.encode({"digit": labels.tolist()})


def with_new_state(model: Painter, images: Tensor, updates: int, name: str) -> Painter:
    """The same network, with a state learned from `images` alone, from the null state on."""
    model = copy.deepcopy(model).requires_grad_(False)
    lstm, null = model.rnn.network, model.rnn.initial_state(None)
    model.rnn = ContextualRNN(lstm, FreeState(lstm, value=null))
    return train(model, images, torch.zeros(len(images)), updates, name)


def judge(options: Options, seed: int) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    """Figures of one seed, and lines of nine images."""
    seen, held_out, seen_labels, held_labels = digits(seed)
    classifier, generator = SVC(gamma="scale").fit(seen, seen_labels), torch.Generator().manual_seed(seed)
    new, held_new = seen_labels == NEW, held_labels == NEW
    torch.manual_seed(seed)
    model, encode = painter(options)
    train(model, seen[~new], encode(seen_labels[~new]), options.updates, f"seed {seed}")
    tuned = with_new_state(model, seen[new][: options.few], options.updates, f"nines, seed {seed}")

    figures, lines = {}, {}
    told = torch.arange(NEW).repeat_interleave(options.per_class)
    real = diversity(held_out[~held_new], held_labels[~held_new])
    for guidance in GUIDANCE:
        model.rnn.initial_state.guidance = guidance
        made = lines[f"label, guidance {guidance:g}"] = model.paint(encode(told), len(told), generator)
        figures[f"label, guidance {guidance:g}"] = {
            "recognised": classifier.score(made, told),
            "diversity / real": diversity(made, told) / real,
        }
    model.rnn.initial_state.guidance = 1.0
    lines = {name: made[:: options.per_class] for name, made in lines.items()}
    unknown, known, nines = torch.full_like(told, NEW), held_labels[~held_new], held_labels[held_new]
    for name, painting, asked, of_known, of_nines in (
        ("label", model, encode(told), encode(known), None),
        ("no label", model, None, None, None),
        ("unknown label", model, encode(unknown), encode(torch.full_like(known, NEW)), encode(nines)),
        ("state learned from nines", tuned, None, None, None),
    ):
        made = painting.paint(asked, len(told), generator)
        share = torch.bincount(torch.tensor(classifier.predict(made)), minlength=10) / len(made)
        figures[name] = {
            "kinds of digit": float(torch.special.entr(share).sum().exp()),
            "share of nines": float(share[NEW]),
            "nats per pixel, known digits": painting.bounds(held_out[~held_new], of_known, options.draws, generator)[0],
        }
        if name != "label":
            bound, _ = painting.bounds(held_out[held_new], of_nines, options.draws, generator)
            figures[name]["nats per pixel, nines"] = bound
            lines[name] = made[:NEW]
    return figures, lines


@styled()
def draw(lines: dict[str, Tensor]) -> Figure:
    figure = Figure(figsize=(6, 0.5 * len(lines)))
    axes = figure.add_subplot(frameon=False)
    axes.imshow(board(torch.cat(list(lines.values())), NEW), cmap="gray_r", vmin=0, vmax=16)
    axes.grid(False)
    axes.set_yticks([(SIDE + 2) * (row + 0.5) for row in range(len(lines))], list(lines))
    axes.set_xticks([])
    axes.tick_params(length=0)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=3, units=16, per_class=10, draws=2)
    started, values = time.perf_counter(), {}
    for seed in range(options.seeds):
        figures, lines = judge(options, seed)
        for name, found in figures.items():
            for measure, value in found.items():
                values.setdefault(name, {}).setdefault(measure, []).append(value)
        if seed == 0:
            write_picture(options.out / "missing_label.png", draw(lines), bbox_inches="tight")
    figures = {name: {measure: over_seeds(each) for measure, each in found.items()} for name, found in values.items()}
    write(options.out / "missing_label.json", asdict(options), figures, started)


if __name__ == "__main__":
    main(tyro.cli(Options))

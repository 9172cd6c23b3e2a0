"""A frozen language model and its initial state: free, from a few examples, or drawn, beside what else one can do.

A small gated-delta hybrid of transformers reads bytes of twelve styles, from files that come with Python and its
packages, and is frozen. Three of these styles and three that it has never read follow, from 16 to 256 examples of 128
bytes each: a free state; a contextual state, whose context is the histogram of bytes of the examples and which is
trained on the twelve styles alone; the mean of a distribution around it; a free state that begins there; another text
read before; a bias of the output; low-rank updates of the weights (LoRA); everything. Bits per byte of texts out of
files that nothing was trained on.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from evidence import FAINT, over_seeds, styled, write, write_picture
from language_styles_data import LENGTH, SEEN, UNSEEN, texts
from language_styles_model import Bias, LowRank, bits, histogram, new_model, train
from matplotlib.figure import Figure
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextState, FreeState, InitialState, LeafwiseState, NormalState, StateSpec
from contextual_rnn.language import language_model_spec

STYLES = {name: SEEN[name] for name in ("Python", "C++", "licences")} | UNSEEN
# Of learning, tried by hand for two styles of another seed. A state's is small because states are: 0.003 on average.
RATES = {"state": 3e-3, "context": 3e-4, "bias": 5e-2, "LoRA": 1e-2, "everything": 2e-3}


@dataclass(frozen=True)
class Options:
    seeds: int = 5  # each with a network and texts of its own
    texts: int = 2000  # of each style to train the network on
    pretraining: int = 1000  # updates
    context_updates: int = 300  # of the contextual states, over all seen styles
    updates: int = 30  # a style and method
    width: int = 96
    test: int = 64  # texts a style
    processes: int = 2
    out: Path = Path("results")
    quick: bool = False  # a small setting that ends in seconds


def ways(model: Any, states: dict[str, InitialState], spec: StateSpec, rows: Tensor, options: Options) -> Iterator:
    """Way, network, what is added to it, how many numbers a style keeps, and the texts that are read before."""
    size = sum(leaf.numel for leaf in spec)
    for count in (16, 64, 256):
        examples = rows[:count]
        context = histogram(examples)[None]
        for way, state in states.items():
            yield f"{way}, {count}", model, state, context, size, None
        tuned = [("free state", "state", FreeState(spec)), ("LoRA, rank 1", "LoRA", LowRank(model, 1))]
        if count == 64:
            yield "nothing, 64", model, None, context, 0, None
            before = examples[torch.randint(count, (options.test,))]
            yield "another text before, 64", model, None, context, LENGTH, before
            start = {name: leaf[0] for name, leaf in states["contextual state"](context).items()}
            *_, last = (leaf.name for leaf in spec)
            parts = {leaf.name: (FreeState if leaf.name == last else ConstantState)(spec[leaf.name]) for leaf in spec}
            tuned += [
                ("free state of one layer", "state", LeafwiseState(spec, **parts)),
                ("free state, begun at the contextual", "state", FreeState(spec, value=start)),
                ("output bias", "bias", Bias()),
                ("LoRA, rank 8", "LoRA", LowRank(model, 8)),
                ("everything", "everything", None),
            ]
        for way, kind, extra in tuned:
            network = model if extra is not None else deepcopy(model).requires_grad_(True)
            train(network, extra, examples[None], context, options.updates, RATES[kind])
            numbers = sum(parameter.numel() for parameter in (extra or network).parameters())
            yield f"{way}, {count}", network, extra, context, numbers, None


def one_seed(seed: int, options: Options) -> dict[str, dict[str, tuple[int, list[float]]]]:
    """Style, way: how many numbers a style keeps, and the bits of each byte."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = new_model(options.width)
    seen = torch.stack([texts(style, options.texts, generator) for style in SEEN.values()])
    train(model, None, seen, histogram(seen[:, :64]), options.pretraining, 4e-3)
    spec = language_model_spec(model.requires_grad_(False))
    net = nn.Sequential(nn.Linear(256, 64), nn.Tanh())
    states = {
        "contextual state": ContextState(spec, net, zero_init=True),
        "mean of a distribution": NormalState(spec, deepcopy(net), scale=0.01),
    }
    for state in states.values():
        kl = 1e-5 if isinstance(state, NormalState) else 0.0
        train(model, state, seen, histogram(seen[:, :64]), options.context_updates, RATES["context"], kl)
    measured: dict[str, dict[str, tuple[int, list[float]]]] = {}
    for name, style in list(STYLES.items())[:: 3 if options.quick else 1]:
        rows, test = texts(style, 256, generator), texts(style, options.test, generator, test=True)
        for way, network, extra, context, numbers, before in ways(model, states, spec, rows, options):
            with torch.no_grad():
                each = bits(network, extra, test, context, before).mean(0)
            measured.setdefault(name, {})[way] = numbers, each.tolist()
    return measured


@styled()
def draw(curves: dict[str, dict[str, Tensor]]) -> Figure:
    """Gain over nothing by position, the mean over seeds, in steps of 8 bytes."""
    figure = Figure(figsize=(13, 5.5))
    for axes, (style, ways) in zip(figure.subplots(2, 3).flat, curves.items(), strict=False):
        for way in ("free state, 64", "contextual state, 64", "LoRA, rank 8, 64", "another text before, 64"):
            gain = (ways["nothing, 64"] - ways[way]).mean(0)[: LENGTH // 8 * 8 - 8].view(-1, 8).mean(1)
            axes.plot(torch.arange(len(gain)) * 8, gain, label=way)
        axes.axhline(0, color=FAINT, lw=0.5)
        axes.set(title=style, xlabel="byte", ylabel="bits gained")
    axes.legend()
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=1, pretraining=4, context_updates=2, updates=1, width=32, test=6, texts=300)
    started = time.perf_counter()
    jobs = range(options.seeds), [options] * options.seeds
    if options.quick:
        seeds = list(map(one_seed, *jobs))
    else:
        with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
            seeds = list(pool.map(one_seed, *jobs))
    figures, curves = {}, {}
    for style, ways in seeds[0].items():
        for way, (numbers, _) in ways.items():
            positions = torch.tensor([seed[style][way][1] for seed in seeds])
            plain = torch.tensor([seed[style]["nothing, 64"][1] for seed in seeds])
            curves.setdefault(style, {})[way] = positions
            figures.setdefault(style, {})[way] = {
                "numbers": numbers,
                "bits": over_seeds(positions.mean(1)),
                "gain": over_seeds((plain - positions).mean(1)),
                "gain, bytes 1-16": over_seeds((plain - positions)[:, :16].mean(1)),
                "gain, bytes 96-127": over_seeds((plain - positions)[:, 95:].mean(1)),
            }
    write_picture(options.out / "language_styles.png", draw(curves))
    write(options.out / "language_styles.json", asdict(options), figures, started)


if __name__ == "__main__":
    main(tyro.cli(Options))

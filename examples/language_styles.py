"""A frozen language model and its initial state: free, from a few examples, or drawn, beside what else one can do.

A small gated-delta hybrid of transformers reads bytes of twelve styles, from files that come with Python and its
packages, and is frozen. Three of these styles and three that it has never read follow, from 16 to 256 examples of 128
bytes each: a free state; a contextual state, whose context is the histogram of bytes of the examples and which is
trained on the twelve styles alone; the mean of a distribution around it; a free state that begins there; another text
read before; a bias of the output; low-rank updates of the weights (LoRA); everything. Bits per byte of texts out of
files that nothing was trained on.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import tyro
from evidence import over_seeds, write, write_picture
from language_styles_data import LENGTH, SEEN, UNSEEN, texts
from language_styles_model import Bias, LowRank, bits, new_model
from matplotlib.figure import Figure
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextState, FreeState, LeafwiseState, NormalState
from contextual_rnn.language import language_model_spec

STYLES = {name: SEEN[name] for name in ("Python", "C++", "licences")} | UNSEEN
# Of learning, tried by hand for two styles of another seed.
RATES = {"state": 5e-2, "bias": 5e-2, "LoRA": 5e-3, "everything": 2e-3}
BATCH = 16


@dataclass(frozen=True)
class Options:
    seeds: int = 5  # each with a network and texts of its own
    pretraining: int = 1500  # updates
    context_updates: int = 400  # of the contextual states, over all seen styles
    updates: int = 60  # a style and method
    width: int = 96
    test: int = 64  # texts a style
    processes: int = 2
    out: Path = Path("results")
    quick: bool = False  # a small setting that ends in seconds


def train(model, extra, rows: Tensor, context: Tensor, updates: int, rate: float, beta: float = 0.0) -> nn.Module:
    """Train `extra`, or the model where there is none, on rows (S, N, T) of styles with contexts (S, 256)."""
    trained = [parameter for parameter in (extra or model).parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, updates)
    for _ in range(updates):
        style = torch.randint(len(rows), (BATCH,))
        batch = rows[style, torch.randint(rows.shape[1], (BATCH,))]
        loss = bits(model, extra, batch, context[style]).mean()
        if beta:
            loss = loss + beta * extra.kl(context[style]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return (extra or model).eval()


def histogram(rows: Tensor) -> Tensor:
    """Of bytes, (..., N, T) -> (..., 256): the square roots of their shares, so that rare ones count."""
    return torch.nn.functional.one_hot(rows, 256).float().mean((-3, -2)).sqrt()


def one_seed(seed: int, options: Options) -> dict[str, dict[str, tuple[int, list[float]]]]:
    """Style, method: numbers that a style keeps, and the bits of each position."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = new_model(options.width)
    seen = torch.stack([texts(style, 300, generator) for style in SEEN.values()])
    train(model, None, seen, histogram(seen), options.pretraining, 3e-3)
    spec = language_model_spec(model.requires_grad_(False))
    few = seen[:, :64]
    g = ContextState(spec, nn.Sequential(nn.Linear(256, 64), nn.Tanh()), zero_init=True)
    train(model, g, seen, histogram(few), options.context_updates, 5e-3)
    drawn = NormalState(spec, deepcopy(g.net), scale=0.05)
    train(model, drawn, seen, histogram(few), options.context_updates, 5e-3, beta=1e-5)
    measured = {}
    for name, style in STYLES.items():
        rows, test = texts(style, 256, generator), texts(style, options.test, generator, test=True)

        def ways(count, rows=rows):
            examples = rows[:count]
            context = histogram(examples)[None]
            start = {leaf: tensor[0] for leaf, tensor in g(context).items()}
            tuned = {"state": [("free state", FreeState(spec))]}
            if count == 64:
                last = [leaf.name for leaf in spec][-1]
                parts = {leaf.name: ConstantState(spec[leaf.name]) for leaf in spec}
                parts[last] = FreeState(spec[last])
                tuned["state"] += [
                    ("free state of one layer", LeafwiseState(spec, **parts)),
                    ("free state, begun at the contextual", FreeState(spec, value=start)),
                ]
                tuned["bias"] = [("output bias", Bias())]
                tuned["everything"] = [("everything", None)]
                yield "nothing", None, context, 0, None
                prefix = examples[torch.randint(count, (options.test,), generator=generator)]
                yield "another text before", None, context, LENGTH, prefix
                yield "contextual state's distribution", drawn, context, 1024, None
            yield "contextual state", g, context, 1024, None
            tuned["LoRA"] = [("LoRA, rank 1", LowRank(model, 1))]
            tuned["LoRA"] += [("LoRA, rank 8", LowRank(model, 8))] if count == 64 else []
            for kind, extras in tuned.items():
                for way, extra in extras:
                    whole = deepcopy(model).requires_grad_(True) if extra is None else model
                    train(whole, extra, examples[None], context, options.updates, RATES[kind])
                    numbers = sum(p.numel() for p in (extra or whole).parameters())
                    yield way, extra if extra is not None else whole, context, numbers, None

        for count in (16, 64, 256):
            for way, extra, context, numbers, prefix in ways(count):
                whole, extra = (extra, None) if way == "everything" else (model, extra)
                with torch.no_grad():
                    by_position = bits(whole, extra, test, context, prefix).mean(0)
                measured.setdefault(name, {})[f"{way}, {count}"] = numbers, by_position.tolist()
    return measured


def draw(curves: dict[str, dict[str, Tensor]]) -> Figure:
    """Gain over nothing by position, the mean over seeds, in steps of 8 bytes."""
    figure = Figure(figsize=(13, 5.5), dpi=100, layout="constrained")
    for axes, (style, ways) in zip(figure.subplots(2, 3).flat, curves.items(), strict=True):
        for way in ("free state, 64", "contextual state, 64", "LoRA, rank 8, 64", "another text before, 64"):
            gain = (ways["nothing, 64"] - ways[way]).mean(0)[: LENGTH // 8 * 8 - 8].view(-1, 8).mean(1)
            axes.plot(torch.arange(len(gain)) * 8, gain, label=way)
        axes.axhline(0, color="grey", lw=0.5)
        axes.set(title=style, xlabel="byte", ylabel="bits gained")
    axes.legend(frameon=False, fontsize=7)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, pretraining=4, context_updates=2, updates=1, width=32, test=6, processes=1)
    started = time.perf_counter()
    jobs = [(seed, options) for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        seeds = list(pool.map(one_seed, *zip(*jobs, strict=True)))
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

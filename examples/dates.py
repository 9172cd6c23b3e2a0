"""Sequence -> sequence: dates as people write them, to ISO form; "le 3 mai 2001" -> "2001-05-03".

The decoder starts from what the encoder read, s(0) = tanh(W h(T)) (Cho et al. 2014; Bahdanau et al. 2015): a
`ContextState` whose context is the encoder's last state. It is trained with and without additive attention, which asks
with the decoder's output of the same step (Luong et al. 2015), not with that of the step before as in Bahdanau et al.:
so the decoder runs over a whole sequence in one call.

The paper suggests a contextual state for the *encoder* too. Who writes decides here what "3/5/2001" means: March 5 in
the United States, May 3 in France. An encoder that starts at zero cannot know; one that starts from the locale can.

Exact match is that of days which training never sees in any locale or layout. "one meaning": the text alone says it.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import torch
import tyro
from date_texts import LOCALES, days, readings, write_anyhow
from dates_model import SYMBOLS, Translator
from evidence import over_seeds, styled, write, write_picture
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange

VARIANTS = {  # the encoder's start, and whether the decoder attends
    "contextual encoder, attention": ("locale", True),
    "contextual encoder": ("locale", False),
    "zero encoder, attention": ("zero", True),
}


@dataclass(frozen=True)
class Options:
    seeds: int = 1
    updates: int = 300
    """Training batches with attention, of 128 dates that are made as they are needed."""
    patience: int = 4
    """Without attention, so many times as many."""
    units: int = 128
    """Of the decoder, and of both directions of the encoder together."""
    test_dates: int = 2000
    beam: int = 4
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


def batch(written: list[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Texts (B, S) padded with 0, lengths and locales (B,)."""
    texts = [torch.tensor(list(text.encode("latin-1"))) for text, _ in written]
    lengths = torch.tensor([len(text) for text in texts])
    return pad_sequence(texts, batch_first=True), lengths, torch.tensor([LOCALES.index(name) for _, name in written])


def symbols_of(texts: list[str]) -> Tensor:
    return torch.tensor([[SYMBOLS.index(symbol) for symbol in text] for text in texts])


def train(name: str, options: Options, seed: int) -> Translator:
    rng, (known, _) = Random(seed), days()
    torch.manual_seed(seed)
    model = Translator(*VARIANTS[name], options.units)
    updates = options.updates * (1 if model.attention else options.patience)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, updates)
    for _ in trange(updates, desc=f"{name}, seed {seed}", leave=False):
        chosen = rng.choices(known, k=128)
        target = symbols_of([f"^{day}" for day in chosen])
        scores, _ = model(*batch([write_anyhow(day, rng) for day in chosen]), target[:, :-1])
        loss = functional.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@styled()
def draw(model: Translator, texts: list[tuple[str, str]]) -> Figure:
    """Where the decoder looked, for a date in each of a few locales."""
    figure = Figure(figsize=(11, 4.2))
    inputs = batch(texts)
    path = model.greedy(*inputs)
    given = torch.cat([torch.full((len(texts), 1), SYMBOLS.index("^")), path[:, :-1]], 1)
    with torch.no_grad():
        _, weights = model(*inputs, given)
    assert weights is not None
    for axes, (text, locale), row, weight in zip(figure.subplots(1, len(texts)), texts, path, weights, strict=True):
        axes.grid(False)
        axes.imshow(weight[:, : len(text)].T, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=locale, xlabel="written")
        axes.set_xticks(range(10), [SYMBOLS[symbol] for symbol in row])
        axes.set_yticks(range(len(text)), list(text))
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, updates=4, units=16, test_dates=60)
    started = time.perf_counter()
    matches: dict[str, dict[str, list[float]]] = {name: {} for name in VARIANTS}
    rng, (_, unseen) = Random(-1), days()
    chosen = rng.choices(unseen, k=options.test_dates)
    written = [write_anyhow(day, rng) for day in chosen]
    inputs, target = batch(written), symbols_of([str(day) for day in chosen])
    unclear = torch.tensor([len(readings(text)) > 1 for text, _ in written])
    subsets = {"all": torch.ones_like(unclear), "one meaning": ~unclear, "several meanings": unclear}
    shown = [next(pair for pair in written if pair[1] == locale) for locale in ("en-GB", "de-DE", "fr-FR", "es-ES")]
    for seed in range(options.seeds):
        for name, (start, attends) in VARIANTS.items():
            before = time.process_time()
            model = train(name, options, seed)
            found = {"processor seconds to train": time.process_time() - before}
            hit = (model.greedy(*inputs) == target).all(1)
            found |= {f"exact match, {subset}": float(hit[rows].float().mean()) for subset, rows in subsets.items()}
            found["exact match, all, beam"] = float((model.beam(*inputs, options.beam) == target).all(1).float().mean())
            for measure, value in found.items():
                matches[name].setdefault(measure, []).append(value)
            if attends and start == "locale":
                write_picture(options.out / "dates.png", draw(model, shown))
        figures = {name: {what: over_seeds(each) for what, each in found.items()} for name, found in matches.items()}
        write(options.out / "dates.json", asdict(options), figures, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

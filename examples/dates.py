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
from evidence import over_seeds, write
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange

from contextual_rnn import AdditiveAttention, ConstantState, ContextState, ContextualRNN, generate

SYMBOLS = "0123456789-^"  # what an ISO date is made of, and its start
VARIANTS = {  # the encoder's start, and whether the decoder attends
    "zero encoder": ("zero", False),
    "zero encoder, attention": ("zero", True),
    "contextual encoder": ("locale", False),
    "contextual encoder, attention": ("locale", True),
}


@dataclass(frozen=True)
class Options:
    seeds: int = 1
    updates: int = 2500
    """Training batches, of 128 dates that are made as they are needed."""
    units: int = 128
    """Of the decoder, and of both directions of the encoder together."""
    test_dates: int = 2000
    beam: int = 4
    out: Path = Path("runs/dates")
    quick: bool = False
    """A small setting that ends in seconds."""


class Translator(nn.Module):
    def __init__(self, start: str, attends: bool, units: int):
        super().__init__()
        encoder = nn.GRU(32, units // 2, bidirectional=True, batch_first=True)
        decoder = nn.GRU(32, units, batch_first=True)
        locale = nn.Embedding(len(LOCALES), 16)
        self.characters, self.symbols = nn.Embedding(256, 32), nn.Embedding(len(SYMBOLS), 32)  # latin-1 has 256
        self.encoder = ContextualRNN(
            encoder, ContextState(encoder, locale) if start == "locale" else ConstantState(encoder)
        )
        summary = nn.Identity()
        self.decoder = ContextualRNN(decoder, ContextState(decoder, summary, features=units, activation=torch.tanh))
        self.attention = AdditiveAttention(units, units, units // 2) if attends else None
        self.readout = nn.Linear(2 * units if attends else units, len(SYMBOLS))

    def encode(self, texts: Tensor, lengths: Tensor, locales: Tensor) -> tuple[Tensor, Tensor]:
        """What attention reads, (B, S, units), and the decoder's context, (B, units)."""
        keys, last = self.encoder(self.characters(texts), context=locales, lengths=lengths)
        return keys, last.transpose(0, 1).flatten(1)

    def score(self, output: Tensor, keys: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores of the next symbol from the decoder's output, (B, units) or (B, T, units), and where it looked."""
        if self.attention is None:
            return self.readout(output), None
        attended, weights = self.attention(output, keys, lengths=lengths)
        return self.readout(torch.cat([output, attended], -1)), weights

    def forward(self, texts: Tensor, lengths: Tensor, locales: Tensor, given: Tensor) -> tuple[Tensor, Tensor | None]:
        keys, summary = self.encode(texts, lengths, locales)
        output, _ = self.decoder(self.symbols(given), context=summary)
        return self.score(output, keys, lengths)

    @torch.no_grad()
    def greedy(self, texts: Tensor, lengths: Tensor, locales: Tensor) -> Tensor:
        keys, summary = self.encode(texts, lengths, locales)

        def step(output: Tensor, symbol: Tensor) -> Tensor:
            return self.score(output, keys, lengths)[0].argmax(-1)

        first = torch.full((len(texts),), SYMBOLS.index("^"))
        return generate(self.decoder, step, first, context=summary, num_steps=10, embed=self.symbols)[:, 0]

    @torch.no_grad()
    def beam(self, texts: Tensor, lengths: Tensor, locales: Tensor, width: int) -> Tensor:
        """The likeliest of `width` beams, (B, 10): all dates have ten symbols, so no length needs a correction."""
        keys, summary = (part.repeat_interleave(width, 0) for part in self.encode(texts, lengths, locales))
        lengths, rows = lengths.repeat_interleave(width), len(texts)
        state, spec = self.decoder.initial_state(summary), self.decoder.initial_state.spec
        paths = torch.full((rows * width, 1), SYMBOLS.index("^"))
        total = torch.tensor([0.0] + [-torch.inf] * (width - 1)).repeat(rows, 1)  # beams start alike: only one counts
        for _ in range(10):
            output, state = spec.step(self.decoder.network, self.symbols(paths[:, -1]), state)
            scores = self.score(output, keys, lengths)[0].log_softmax(-1).unflatten(0, (rows, width))
            total, best = (total[..., None] + scores).flatten(1).topk(width)
            source = (best // len(SYMBOLS) + width * torch.arange(rows)[:, None]).flatten()
            paths = torch.cat([paths[source], best.view(-1, 1) % len(SYMBOLS)], 1)
            state = spec.pack({name: leaf[source] for name, leaf in spec.unpack(state).items()})
        return paths[::width, 1:]


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
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, options.updates)
    for _ in trange(options.updates, desc=f"{name}, seed {seed}", leave=False):
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


def draw(model: Translator, texts: list[tuple[str, str]]) -> Figure:
    """Where the decoder looked, for a date in each of a few locales."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    inputs = batch(texts)
    path = model.greedy(*inputs)
    given = torch.cat([torch.full((len(texts), 1), SYMBOLS.index("^")), path[:, :-1]], 1)
    with torch.no_grad():
        _, weights = model(*inputs, given)
    assert weights is not None
    for axes, (text, locale), row, weight in zip(figure.subplots(1, len(texts)), texts, path, weights, strict=True):
        axes.imshow(weight[:, : len(text)].T, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=locale, xlabel="written")
        axes.set_xticks(range(10), [SYMBOLS[symbol] for symbol in row])
        axes.set_yticks(range(len(text)), list(text))
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, updates=25, units=32, test_dates=100)
    started = time.perf_counter()
    matches: dict[str, dict[str, list[float]]] = {name: {} for name in VARIANTS}
    rng, (_, unseen) = Random(-1), days()
    chosen = rng.choices(unseen, k=options.test_dates)
    written = [write_anyhow(day, rng) for day in chosen]
    inputs, target = batch(written), symbols_of([str(day) for day in chosen])
    unclear = torch.tensor([len(readings(text)) > 1 for text, _ in written])
    subsets = {"all": torch.ones_like(unclear), "one meaning": ~unclear, "several meanings": unclear}
    for seed in range(options.seeds):
        for name in VARIANTS:
            before = time.perf_counter()
            model = train(name, options, seed)
            found = {"seconds to train": time.perf_counter() - before}
            hit = (model.greedy(*inputs) == target).all(1)
            found |= {f"exact match, {subset}": float(hit[rows].float().mean()) for subset, rows in subsets.items()}
            found["exact match, all, beam"] = float((model.beam(*inputs, options.beam) == target).all(1).float().mean())
            for measure, value in found.items():
                matches[name].setdefault(measure, []).append(value)
    options.out.mkdir(parents=True, exist_ok=True)
    shown = [next(pair for pair in written if pair[1] == locale) for locale in ("en-GB", "de-DE", "fr-FR", "es-ES")]
    draw(model, shown).savefig(options.out / "dates.png", dpi=100)
    figures = {name: {what: over_seeds(values) for what, values in found.items()} for name, found in matches.items()}
    write(options.out / "dates.json", asdict(options), figures, started)


if __name__ == "__main__":
    main(tyro.cli(Options))

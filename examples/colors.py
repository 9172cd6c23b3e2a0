"""Static covariates -> sequence: names for colours, letter by letter, from what a table says about each of them.

The table is the two lists of named colours that ship with matplotlib: 949 names from the survey of xkcd (2010, CC0) and
those of CSS 4. A row has quantities (red, green, blue), a category (how many words the name is to have) and a set (the
lists that know the name); its sequence is the name. Categories and scales are those of the training rows. One value in
ten of "words" is put into the unknown bucket in training, so that a row may also leave it open.

`ContextNet` makes one vector of a row, which sets the state of a GRU. Beside it what people do instead: the same vector
with every step, and no covariates at all. Judged by held-out names (nats a letter), with "words" known and left
open, with the covariates of another row, and by how often a written name ends in the true name's last word.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from color_table import LETTERS, WIDTH, Row, columns, letters, table
from evidence import over_seeds, styled, write, write_picture
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from contextual_rnn import Categorical, ConstantState, ContextNet, ContextState, ContextualRNN, Continuous, SetValued

VARIANTS = ("no covariates", "state", "every step")  # where the covariates go


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    """Each with rows held out, weights and batches of its own."""
    epochs: int = 25
    """The weights are those of the epoch that was best on rows kept for this choice."""
    units: int = 128
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


class Namer(nn.Module):
    def __init__(self, rows: Sequence[Row], where: str, units: int):
        super().__init__()
        known = columns(rows)
        features = {key: Continuous.fit(known[key]) for key in ("red", "green", "blue")}
        features["words"] = Categorical.fit(known["words"], unknown=True, dropout=0.1)
        features["lists"] = SetValued.fit(known["lists"])
        self.covariates, self.where = ContextNet(features, 64), where
        gru = nn.GRU(32 + 64 * (where == "every step"), units, batch_first=True)
        self.rnn = ContextualRNN(gru, ContextState(gru, self.covariates) if where == "state" else ConstantState(gru))
        self.embedding, self.dropout = nn.Embedding(len(LETTERS), 32), nn.Dropout(0.3)
        self.readout = nn.Linear(units, len(LETTERS))

    def forward(self, covariates: dict[str, Tensor], before: Tensor) -> Tensor:
        """Scores (B, T, LETTERS) of the letters that follow each of those before, (B, T)."""
        inputs = self.embedding(before)
        if self.where == "every step":
            inputs = torch.cat([inputs, self.covariates(covariates)[:, None].expand(-1, before.shape[1], -1)], -1)
        return self.readout(self.dropout(self.rnn(inputs, context=covariates)[0]))

    def loss(self, covariates: dict[str, Tensor], names: Tensor) -> Tensor:
        """Nats a letter, its end included."""
        scores, after = self(covariates, names[:, :-1]), names[:, 1:]
        real = functional.pad(names[:, 1:-1] != 0, (1, 0), value=True)
        return functional.cross_entropy(scores[real], after[real])

    @torch.no_grad()
    def write(self, covariates: dict[str, Tensor]) -> list[str]:
        """The likeliest letter each time."""
        names = torch.zeros(len(covariates["red"]), 1, dtype=torch.long)
        for _ in range(WIDTH):
            names = torch.cat([names, self(covariates, names)[:, -1:].argmax(-1)], 1)
        return ["".join(LETTERS[letter] for letter in name[1:]).split("\n")[0] for name in names.tolist()]


def train(name: str, rows: Sequence[Row], kept: Sequence[Row], options: Options, seed: int) -> Namer:
    torch.manual_seed(seed)
    model = Namer(rows, name, options.units)
    data, check = [(model.covariates.encode(columns(part)), letters(part)) for part in (rows, kept)]
    optimizer, best = torch.optim.Adam(model.parameters(), 3e-3), (torch.inf, {})
    batches = torch.Generator().manual_seed(seed)  # of its own, so that all see the same
    for _ in trange(options.epochs, desc=f"{name}, seed {seed}", leave=False):
        for chosen in torch.randperm(len(rows), generator=batches).split(64):
            loss = model.train().loss({key: column[chosen] for key, column in data[0].items()}, data[1][chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            error = float(model.eval().loss(*check))
        if error < best[0]:
            best = error, {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.load_state_dict(best[1])
    return model


@styled()
def draw(rows: Sequence[Row], written: Sequence[str]) -> Figure:
    figure = Figure(figsize=(10, 4.8))
    for axes, row, name in zip(figure.subplots(6, 5).flat, rows, written, strict=True):
        axes.set(xticks=[], yticks=[], facecolor=(row["red"], row["green"], row["blue"]))
        axes.set_xlabel(name)
        axes.spines[:].set_visible(False)
    return figure


@torch.no_grad()
def judge(model: Namer, rows: Sequence[Row]) -> dict[str, float]:
    encode, names = model.covariates.encode, letters(rows)
    given = encode(columns(rows))
    last = [text.split()[-1:] == row["name"].split()[-1:] for text, row in zip(model.write(given), rows, strict=True)]
    return {
        "nats a letter": float(model.loss(given, names)),
        "nats a letter, words left open": float(model.loss(encode(columns(rows, words=None)), names)),
        "nats a letter, another row's covariates": float(model.loss(encode(columns(rows[1:] + rows[:1])), names)),
        "last word right": sum(last) / len(last),
    }


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, epochs=1, units=16)
    started, found = time.perf_counter(), {name: {} for name in VARIANTS}
    rows = table()
    names = sorted({row["name"] for row in rows})  # by which rows are held out, as both lists may know one
    for seed in range(options.seeds):
        order = [names[place] for place in torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
        tenth = len(names) // 10
        held_out = {name: place // tenth for place, name in enumerate(order[: 2 * tenth])}
        test, kept, known = ([row for row in rows if held_out.get(row["name"]) == part] for part in (0, 1, None))
        for name in VARIANTS:
            model = train(name, known, kept, options, seed)
            for what, value in judge(model, test).items():
                found[name].setdefault(what, []).append(value)
            if name == "state":
                shown = test[:: len(test) // 30][:30]
                figure = draw(shown, model.write(model.covariates.encode(columns(shown))))
        figures = {name: {what: over_seeds(each) for what, each in values.items()} for name, values in found.items()}
        nats = {name: torch.tensor(values["nats a letter"]) for name, values in found.items()}
        for name in ("state", "every step"):  # paired by seed: the same rows and batches
            figures[name]["less those of no covariates"] = over_seeds(nats[name] - nats["no covariates"])
        write_picture(options.out / "colors.png", figure)
        write(options.out / "colors.json", asdict(options), figures, started)  # after every seed: it takes a while


if __name__ == "__main__":
    main(tyro.cli(Options))

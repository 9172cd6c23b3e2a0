"""The encoder-decoder of dates.py: texts in, ISO dates out, one symbol after the other."""

import torch
from date_texts import LOCALES
from torch import Tensor, nn

from contextual_rnn import AdditiveAttention, ConstantState, ContextState, ContextualRNN, generate
from contextual_rnn.spec import take_step

SYMBOLS = "0123456789-^"  # what an ISO date is made of, and its start


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
            output, state = take_step(self.decoder.network, spec, self.symbols(paths[:, -1]), state)
            scores = self.score(output, keys, lengths)[0].log_softmax(-1).unflatten(0, (rows, width))
            total, best = (total[..., None] + scores).flatten(1).topk(width)
            source = (best // len(SYMBOLS) + width * torch.arange(rows)[:, None]).flatten()
            paths = torch.cat([paths[source], best.view(-1, 1) % len(SYMBOLS)], 1)
            state = spec.pack({name: leaf[source] for name, leaf in spec.unpack(state).items()})
        return paths[::width, 1:]

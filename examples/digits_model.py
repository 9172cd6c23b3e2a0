"""The painter of digits.py and missing_label.py: images as sequences, and its training."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from contextual_rnn import ContextualRNN, InitialState, generate

LEVELS, SIDE = 17, 8  # of grey, and pixels a side
PIXELS = SIDE * SIDE
SEEN = 2 * SIDE  # the last two rows painted


class Painter(nn.Module):
    """p(image | context): an LSTM that paints `width` pixels a step, 1 or a whole row, each given all before it.

        input(t) = the last two rows painted by then, t, and the label where it is `told` at every step
        p(x_i | h(t), x_<i) = softmax(W relu(A dropout(h(t)) + B x_<i + c_i)), i counting the pixels of step t alone

    `state` makes the initial state for the LSTM; it is the only way in for the context where `told` is false.
    """

    def __init__(self, width: int, units: int, state: Callable[[nn.LSTM], InitialState], told: bool = False):
        super().__init__()
        self.width, self.steps, self.told = width, PIXELS // width, told
        lstm = nn.LSTM(SEEN + self.steps + 10 * told, units, batch_first=True)
        nn.init.ones_(lstm.bias_ih_l0.data[units : 2 * units])  # of the forget gates: 64 steps are long to remember
        self.rnn = ContextualRNN(lstm, state(lstm))
        self.dropout = nn.Dropout()  # the images are few
        self.hidden = nn.Linear(units, 64)
        self.left = nn.Linear(width, 64, bias=False)
        self.place = nn.Parameter(0.1 * torch.randn(width, 64))
        self.readout = nn.Linear(64, LEVELS)

    def inputs(self, images: Tensor, labels: Any) -> Tensor:
        """What the LSTM reads while it paints `images` (B, 64): (B, steps, features)."""
        seen = functional.pad(images / 8 - 1, (SEEN, 0), value=-1.0).unfold(1, SEEN, self.width)[:, : self.steps]
        parts = [seen, torch.eye(self.steps).expand(len(images), -1, -1)]
        if self.told:
            parts.append(functional.one_hot(labels, 10).float()[:, None].expand(-1, self.steps, -1))
        return torch.cat(parts, -1)

    def logits(self, output: Tensor, pixels: Tensor) -> Tensor:
        """Of the levels of a step's pixels, (..., width, 17); `output` is the LSTM's, `pixels` (..., width).

        A pixel's own level and those to its right do not count.
        """
        left = (pixels / 8 - 1)[..., None, :] * torch.ones(self.width, self.width).tril(-1)
        hidden = self.hidden(self.dropout(output))[..., None, :]
        return self.readout(functional.relu(hidden + self.left(left) + self.place))

    def log_likelihood(self, images: Tensor, context: Any, state: Any = None) -> Tensor:
        """log p(image | h0, context) in nats, (B,), with h0 as the initial state gives it unless `state` is given."""
        output, _ = self.rnn(self.inputs(images, context), state, context=None if state is not None else context)
        logits = self.logits(output, images.unflatten(1, (self.steps, self.width)))
        nats = functional.cross_entropy(logits.flatten(0, 2), images.long().flatten(), reduction="none")
        return -nats.view(len(images), -1).sum(1)

    @torch.no_grad()
    def bounds(self, images: Tensor, context: Any, draws: int, generator: torch.Generator) -> tuple[float, float]:
        """Bounds from above on the negative log-likelihood in nats per pixel, by `draws` of h0 and by one.

            log p(x) >= E log 1/K sum_k p(x | h0_k) >= E log p(x | h0)        h0_k from the initial state

        Both are p(x) itself where h0 is not random. Source: Burda et al. 2016, with the prior as proposal.
        """
        found = []
        for _ in range(draws):
            state = self.rnn.initial_state.sample(context, batch_size=len(images), generator=generator)
            found.append(self.log_likelihood(images, context, state))
        each = torch.stack(found)
        many = each.logsumexp(0) - math.log(draws)
        return float(-many.mean() / PIXELS), float(-each.mean() / PIXELS)

    @torch.no_grad()
    def paint(self, context: Any, count: int, generator: torch.Generator, sample: bool = True) -> Tensor:
        """`count` images (count, 64), one for each context, by drawing h0 (or at its mean) and then every pixel."""

        def place(canvas: Tensor) -> int:
            return int((canvas[0] >= 0).sum())

        def embed(canvas: Tensor) -> Tensor:
            return self.inputs(canvas.clamp(min=0), context)[:, place(canvas) // self.width]

        def step(output: Tensor, canvas: Tensor) -> Tensor:
            start, canvas = place(canvas), canvas.clone()
            pixels = canvas[:, start : start + self.width]
            for pixel in range(self.width):
                levels = self.logits(output, pixels)[:, pixel].softmax(-1)
                pixels[:, pixel] = torch.multinomial(levels, 1, generator=generator)[:, 0]
            return canvas

        empty = torch.full((count, PIXELS), -1.0)
        made = generate(
            self.rnn,
            step,
            empty,
            num_steps=self.steps,
            context=context,
            sample=sample,
            embed=embed,
            generator=generator,
        )
        return made[:, 0, -1]


def train(model: Painter, images: Tensor, context: Any, updates: int, name: str) -> Painter:
    """By maximum likelihood; a random h0 is drawn once an image, so what is maximised is the bound by one draw."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-2, updates)
    for _ in trange(updates, desc=name, leave=False):
        rows = torch.randint(len(images), (32,))
        some = {key: value[rows] for key, value in context.items()} if isinstance(context, dict) else context[rows]
        loss = -model.log_likelihood(images[rows], some).mean() / PIXELS
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()

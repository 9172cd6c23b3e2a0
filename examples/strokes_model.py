"""The model of strokes.py: what the pen does next, and how far it moves."""

import math
from collections.abc import Callable
from typing import Any

import torch
from strokes_data import LABELS, STOP
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.nn import functional
from tqdm import trange

from contextual_rnn import ContextualRNN, InitialState, generate
from contextual_rnn.generation import Generated, GenerationStep

COMPONENTS, MIN_SCALE, MAX_STEPS = 8, 0.01, 60


class Writer(nn.Module):
    """p(drawing | label) as an LSTM: jump, draw or stop, and where not stop a movement from a mixture of normals.

        p(step) = p(kind | h) p(movement | kind, h),  p(movement | kind, h) = sum_k w_k N(movement; m_k, s_k^2)

    An input is the last step: movement, position, and kind. Where the label is `told` at every step, `shares` (B, 16)
    of the labels are appended. `state` makes the initial state for the LSTM.
    """

    def __init__(self, units: int, state: Callable[[nn.LSTM], InitialState], told: bool):
        super().__init__()
        self.told = told
        lstm = nn.LSTM(7 + len(LABELS) * told, units, batch_first=True)
        nn.init.ones_(lstm.bias_ih_l0.data[units : 2 * units])  # of the forget gates: forty steps are long to remember
        self.rnn, self.dropout = ContextualRNN(lstm, state(lstm)), nn.Dropout(0.2)
        self.kind, self.movement = nn.Linear(units, 3), nn.Linear(units, 2 * COMPONENTS * 5)

    def inputs(self, steps: Tensor, shares: Tensor) -> Tensor:
        """What the LSTM reads after `steps` (..., 5)."""
        parts = [steps[..., :4], functional.one_hot(steps[..., 4].long(), 3)]
        if self.told:
            parts.append(shares[:, None].expand(-1, steps.shape[1], -1) if steps.ndim > 2 else shares)
        return torch.cat(parts, -1)

    def kinds(self, output: Tensor, temperature: float = 1.0) -> Categorical:
        return Categorical(logits=self.kind(output) / temperature)

    def mixture(self, output: Tensor, kind: Tensor, temperature: float = 1.0) -> MixtureSameFamily:
        """Of the movement; where `kind` is STOP, that of a jump, which does not count."""
        both = self.movement(output).unflatten(-1, (2, COMPONENTS, 5))
        chosen = (kind % STOP)[..., None, None, None].expand(*kind.shape, 1, COMPONENTS, 5)
        weight, mean, scale = both.gather(-3, chosen).squeeze(-3).split([1, 2, 2], -1)
        scale = (MIN_SCALE + functional.softplus(scale - 2)) * math.sqrt(temperature)
        normals = Independent(Normal(mean, scale, validate_args=False), 1)
        return MixtureSameFamily(Categorical(logits=weight[..., 0] / temperature), normals, validate_args=False)

    def log_prob(self, output: Tensor, steps: Tensor) -> Tensor:
        """Of steps (..., 5) in nats, (...)."""
        output, kind = self.dropout(output), steps[..., 4].long()
        movement = self.mixture(output, kind).log_prob(steps[..., :2])
        return self.kinds(output).log_prob(kind) + torch.where(kind == STOP, 0, movement)

    def log_likelihood(self, drawn: Tensor, lengths: Tensor, labels: Tensor, state: Any = None) -> Tensor:
        """log p(drawing | h0, label) in nats, (B,), with h0 as the initial state gives it unless `state` is given."""
        drawn = drawn[:, : int(lengths.max())]
        before, shares = torch.cat([begin(len(drawn)), drawn[:, :-1]], 1), functional.one_hot(labels, len(LABELS))
        context = None if state is not None else labels
        output, _ = self.rnn(self.inputs(before, shares), state, context=context, lengths=lengths)
        real = torch.arange(drawn.shape[1]) < lengths[:, None]
        nats = torch.zeros(real.shape).masked_scatter(real, self.log_prob(output[real], drawn[real]))
        return nats.sum(1)

    @torch.no_grad()
    def bound(self, drawn: Tensor, lengths: Tensor, labels: Tensor, draws: int, generator: torch.Generator) -> float:
        """A bound from above on the negative log-likelihood in nats a step, by `draws` of h0 from the initial state."""
        each = []
        for _ in range(draws):
            state = self.rnn.initial_state.sample(labels, batch_size=len(labels), generator=generator)
            each.append(self.log_likelihood(drawn, lengths, labels, state))
        return float(-(torch.stack(each).logsumexp(0) - math.log(draws)).sum() / lengths.sum())

    def draw(
        self,
        shares: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
        hx: Any = None,
        temperature: float = 1.0,
    ) -> Generated:
        """One drawing of each row, from the initial state for `labels` or from the states `hx`.

        `temperature` divides the scores of kinds and components, and multiplies the variances.
        """

        def step(output: Tensor, last: Tensor, at: GenerationStep) -> tuple[Tensor, Tensor]:
            kind = inverted(self.kinds(output, temperature), at)
            mixture = self.mixture(output, kind, temperature)
            component = inverted(mixture.mixture_distribution, at)[:, None, None].expand(-1, 1, 2)
            normal = mixture.component_distribution.base_dist
            mean, scale = (part.gather(1, component)[:, 0] for part in (normal.loc, normal.scale))
            moved = torch.where((kind == STOP)[:, None], 0, mean + scale * at.randn(2))
            new = torch.cat([moved, last[:, 2:4] + moved, kind[:, None]], 1)
            return new, self.log_prob(output, new)

        return generate(
            self.rnn,
            step,
            prompt=begin(len(shares)),
            num_steps=MAX_STEPS,
            context=labels,
            hx=hx,
            embed=lambda last, at: self.inputs(last, shares[at.conditions]),
            stop=lambda new: new[:, 4] == STOP,
            generator=generator,
        )


def begin(rows: int) -> Tensor:
    """What is read before the first step, (rows, 1, 5): the pen is in the middle and nothing is drawn."""
    return torch.tensor([[[0.0, 0.0, 0.0, 0.0, STOP]]]).expand(rows, -1, -1)


def inverted(categorical: Categorical, at: GenerationStep) -> Tensor:
    """A draw of each row by a uniform number, which no other row changes."""
    return (at.rand(1) > categorical.probs.cumsum(-1)[:, :-1]).sum(-1)


def train(model: Writer, data: tuple[Tensor, Tensor, Tensor], updates: int, name: str) -> Writer:
    """By maximum likelihood; a random h0 is drawn once a drawing, so what is maximised is the bound by one draw."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-2, updates)
    for _ in trange(updates, desc=name, leave=False):
        rows = torch.randint(len(data[0]), (64,))
        drawn, lengths, labels = (part[rows] for part in data)
        loss = -model.log_likelihood(drawn, lengths, labels).sum() / lengths.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()

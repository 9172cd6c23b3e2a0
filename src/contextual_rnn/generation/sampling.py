"""Tokens drawn from scores."""

from __future__ import annotations

import torch
from torch import Tensor

from contextual_rnn._numbers import NOT_NEGATIVE, check_number, check_size, readable, shortened
from contextual_rnn._precision import wide
from contextual_rnn._tensors import check_floats
from contextual_rnn.generation.step import GenerationStep

# Of thousands of rows the probabilities, sorted and not, in float64 take many times the memory of their scores.
_SCORES_AT_ONCE = 2**22


class TokenSampler:
    """Draws tokens from scores: token ~ softmax(scores / temperature) among the likeliest tokens.

        generate(model, lambda output, token: readout(output), prompt=tokens, num_steps=20, embed=embedding,
                 sampler=TokenSampler(temperature=0.8, top_p=0.95))

    `temperature` 0 takes the likeliest token. `top_k` leaves the k likeliest tokens, and those of the same score as
    the last of them; `top_p` then leaves the fewest likeliest tokens whose probabilities sum to at least p, after the
    temperature. Both leave at least one.

    Called with scores (N, K) and a GenerationStep, it returns the tokens (N,) and their log-probabilities (N,) under
    softmax(scores), before temperature and cuts. One uniform number a row inverts the cumulative distribution.

    Raises ValueError or TypeError for a temperature that is no finite number of at least 0, a top_k that is no
    positive int, a top_p that is no number above 0 and at most 1, and scores with NaN.
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None):
        self.temperature = check_number("temperature", temperature, *NOT_NEGATIVE)
        self.top_k = None if top_k is None else check_size("top_k", top_k)
        expected = "a number above 0 and at most 1"
        self.top_p = None if top_p is None else check_number("top_p", top_p, expected, lambda p: 0 < p <= 1)

    def __repr__(self) -> str:
        return f"TokenSampler(temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p})"

    def __call__(self, scores: Tensor, at: GenerationStep) -> tuple[Tensor, Tensor]:
        check_scores("scores", scores, at.rows.shape[0])
        numbers = at.rand(dtype=torch.float64)  # drawn at temperature 0 too: what follows does not depend on it
        rows = max(1, _SCORES_AT_ONCE // scores.shape[1])
        parts = zip(scores.split(rows), numbers.to(scores.device).split(rows), strict=True)
        tokens, log_probs = zip(*[self._drawn(*part) for part in parts], strict=True)
        return torch.cat(tokens), torch.cat(log_probs)

    def _drawn(self, scores: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        greedy = self.temperature == 0
        tokens = scores.argmax(-1) if greedy else _inverted(self._probabilities(scores.double()), numbers)
        return tokens, log_probs_of(scores, tokens)

    def _probabilities(self, scores: Tensor) -> Tensor:
        # The highest score is taken off first: divided by a small temperature it would overflow.
        scores = (scores - scores.max(-1, keepdim=True).values) / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, -1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        probabilities = scores.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered
            ordered = ordered.masked_fill(before >= self.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        return probabilities


def _inverted(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """The first token whose cumulative probability is above a uniform number; never one of probability 0."""
    cumulative = probabilities.cumsum(-1)
    total = cumulative[..., -1:]
    place = torch.minimum(numbers[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, place, right=True)[:, 0]


def log_probs_of(scores: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(scores) of the tokens, (N,), in float32 at least."""
    return wide(scores).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def check_tokens(tokens: Tensor, end: int) -> None:
    """Refuse tokens of a sampler that scores of `end` tokens do not have."""
    if readable(tokens) and tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < end:
        least, most = int(tokens.min()), int(tokens.max())
        raise ValueError(f"sampler: expected tokens from 0 to {end - 1}, got {least} to {most}")


def check_scores(name: str, scores: object, rows: int) -> None:
    """Refuse anything but scores (rows, K) without NaN."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"{name}: expected scores (rows, tokens), got {shortened(scores)}")
    check_floats(name, scores)
    if scores.ndim != 2 or scores.shape[0] != rows or not scores.shape[1]:
        raise ValueError(f"{name}: expected scores of shape ({rows}, tokens), got {tuple(scores.shape)}")
    # The highest is -inf where no token is possible, +inf where softmax has no value.
    if readable(scores) and not bool(scores.max(-1).values.isfinite().all()):
        raise ValueError(f"{name}: expected scores with a finite highest one in each row, got NaN or infinity")

"""Additive attention, for decoders that look back at what an encoder read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from contextual_rnn._autocast import autocast_joins
from contextual_rnn._lengths import check_lengths
from contextual_rnn._numbers import check_elements, check_factory, check_size, readable
from contextual_rnn._tensors import check_dense, check_floats
from contextual_rnn._torch_internals import exportable


@exportable
class Attended(NamedTuple):
    """The weighted mean of the values, (B, V) or (B, T, V), and the weights, (B, S) or (B, T, S), that sum to one."""

    output: Tensor
    weights: Tensor


class AdditiveAttention(nn.Module):
    """Attention whose score is a small network (Bahdanau, Cho and Bengio 2015, appendix A.1.2).

        score(t, s) = v . tanh(W query(t) + U key(s) + b)
        output(t) = sum_s softmax_s(score(t, s)) value(s)

    `hidden_size` is the width of v. The paper's b is zero: here it is learned, as it can be wherever a layer stands.
    Raises TypeError or ValueError for a size that is no positive int, and for a device or dtype that parameters cannot
    have.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        device, dtype = check_factory(device, dtype)
        query_size, key_size = check_size("query_size", query_size), check_size("key_size", key_size)
        hidden_size = check_size("hidden_size", hidden_size)
        check_elements(hidden_size=hidden_size, query_size=query_size)
        check_elements(hidden_size=hidden_size, key_size=key_size)
        self.query = nn.Linear(query_size, hidden_size, bias=False, device=device, dtype=dtype)
        self.key = nn.Linear(key_size, hidden_size, device=device, dtype=dtype)
        self.score = nn.Linear(hidden_size, 1, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Start anew as the constructor does."""
        for layer in (self.query, self.key, self.score):
            layer.reset_parameters()

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Attended:
        """Attend from one query a sequence, (B, Q), or from several, (B, T, Q), to keys (B, S, K).

        `values`, (B, S, V), are the keys unless given. `lengths`, (B,) integers, says how many keys of each sequence
        are real; `mask`, (B, S) of bool, is True where a key takes part, as in torch's scaled_dot_product_attention.
        Both may be given. What takes no part gets weight 0 and no gradient, whatever stands there, NaN included.

        Raises TypeError or ValueError for tensors that do not fit each other, lengths outside 1 to S, and a mask that
        leaves a sequence nothing to attend to.
        """
        values = keys if values is None else values
        self._check(query, keys, values)
        taking_part = _taking_part(keys, lengths, mask)
        if taking_part is not None:
            # Before any product: 0 times NaN is NaN, in the gradient of a masked softmax too.
            same = values is keys
            keys = keys.masked_fill(~taking_part[..., None], 0)
            values = keys if same else values.masked_fill(~taking_part[..., None], 0)
        queries = query if query.ndim == 3 else query[:, None]
        hidden = torch.tanh(self.query(queries)[:, :, None] + self.key(keys)[:, None])  # (B, T, S, hidden_size)
        scores = self.score(hidden).squeeze(-1)
        if taking_part is not None:
            scores = scores.masked_fill(~taking_part[:, None], -torch.inf)
        weights = scores.softmax(-1)
        output = weights @ values
        return Attended(output, weights) if query.ndim == 3 else Attended(output[:, 0], weights[:, 0])

    def _check(self, query: Tensor, keys: Tensor, values: Tensor) -> None:
        weight = self.key.weight
        for name, tensor in (("query", query), ("keys", keys), ("values", values)):
            check_floats(name, tensor)
            fits = tensor.dtype == weight.dtype or autocast_joins(tensor.dtype, weight.dtype, weight.device)
            if not fits or tensor.device != weight.device:
                given = f"{tensor.dtype} on {tensor.device}"
                raise ValueError(f"{name}: expected {weight.dtype} on {weight.device}, got {given}")
        key_size, query_size = self.key.in_features, self.query.in_features
        if keys.ndim != 3 or keys.shape[-1] != key_size:
            raise ValueError(f"keys: expected shape (B, S, {key_size}), got {tuple(keys.shape)}")
        batch, steps, _ = keys.shape
        if not steps:
            raise ValueError(f"keys: expected at least one key a sequence, got shape {tuple(keys.shape)}")
        if query.ndim not in (2, 3) or query.shape[0] != batch or query.shape[-1] != query_size:
            expected = f"({batch}, {query_size}) or ({batch}, T, {query_size})"
            raise ValueError(f"query: expected shape {expected}, got {tuple(query.shape)}")
        if values.ndim != 3 or values.shape[:2] != keys.shape[:2]:
            raise ValueError(f"values: expected shape ({batch}, {steps}, V), got {tuple(values.shape)}")


def _taking_part(keys: Tensor, lengths: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """(B, S), True where a key takes part; None where all do."""
    batch, steps, _ = keys.shape
    taking_part = None
    if lengths is not None:
        check_lengths(lengths, batch, steps, least=1)
        taking_part = torch.arange(steps, device=keys.device) < lengths.to(keys.device)[:, None]
    if mask is not None:
        check_dense("mask", mask, "a tensor of bool")
        if mask.dtype != torch.bool:
            raise TypeError(f"mask: expected a tensor of bool, got {mask.dtype}")
        if mask.shape != (batch, steps):
            raise ValueError(f"mask: expected shape ({batch}, {steps}), got {tuple(mask.shape)}")
        if mask.device != keys.device:
            raise ValueError(f"mask: expected one on {keys.device}, as the keys, got {mask.device}")
        taking_part = mask if taking_part is None else taking_part & mask
        if readable(taking_part) and not bool(taking_part.any(1).all()):
            row = int((~taking_part.any(1)).nonzero()[0])
            raise ValueError(f"mask: expected something to attend to in every sequence, got nothing in row {row}")
    return taking_part

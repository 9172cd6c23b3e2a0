"""Long sequences in chunks: A is carried from one chunk to the next, and inside one summed over what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank


def in_chunks(
    backend: Callable[..., tuple[Tensor, Tensor | None]],
    size: int,
    inputs: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    a0: Tensor | LowRank | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    lengths: Tensor | None,
    options: FastWeightsOptions,
    *projection: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `backend`, `size` steps at a time.

    O(B T (size + H) H) time and, to go back, O(B T H) memory for what the chunks keep and O(B T H^2 / size) for the A
    between them. Those are of the dtype of inputs: in half precision A is rounded there.
    """
    chunks, outputs, final = inputs.split(size, dim=1), [], None
    carrying = options._replace(return_fast_weights=True)
    for number, chunk in enumerate(chunks):
        left = None if lengths is None else (lengths - number * size).clamp(0, chunk.shape[1])
        chunk_options = options if number == len(chunks) - 1 else carrying
        output, final = backend(chunk, weight_hh, h0, a0, norm_weight, norm_bias, left, chunk_options, *projection)
        outputs.append(output)
        h0, a0 = output.select(1, -1), final
    return torch.cat(outputs, dim=1), final

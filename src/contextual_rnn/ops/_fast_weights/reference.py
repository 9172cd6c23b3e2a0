"""The fast-weights recurrence with A stored, written as the equations stand: the truth for every backend."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from contextual_rnn._shapes import Float, Int
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank


def reference(
    inputs: Float[Tensor, "B T H"],
    weight_hh: Float[Tensor, "H H"],
    h0: Float[Tensor, "B H"],
    a0: Float[Tensor, "B H H"] | LowRank | None,
    norm_weight: Float[Tensor, " H"] | None,
    norm_bias: Float[Tensor, " H"] | None,
    lengths: Int[Tensor, " B"] | None,
    options: FastWeightsOptions,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H H"] | None]:
    """Step through time carrying A explicitly; O(B T H^2 (1 + S)) time, O(B T H^2) memory under autograd."""
    batch, width = inputs.shape[0], int(inputs.shape[2])
    if a0 is None:
        a = inputs.new_zeros(batch, width, width)
    elif isinstance(a0, LowRank):
        a = a0.dense()
    else:
        a = a0

    h, outputs = h0, []
    for t, projected in enumerate(inputs.unbind(1)):
        z = projected + h @ weight_hh.T
        h = torch.relu(z)
        written = _write(options, a, h)
        read_from = written if options.timing == "wenke2019" else a
        for _ in range(options.inner_steps):
            bracket = z + torch.einsum("bij,bj->bi", read_from, h)
            if options.layer_norm:
                bracket = functional.layer_norm(bracket, (width,), norm_weight, norm_bias, options.eps)
            h = torch.relu(bracket)
        if options.timing == "ba2016":
            written = _write(options, a, h)
        if lengths is not None:
            written = torch.where((t < lengths)[:, None, None], written, a)
            h = torch.where((t < lengths)[:, None], h, 0.0)
        a = written
        outputs.append(h)
    return torch.stack(outputs, dim=1), a if options.return_fast_weights else None


def _write(options: FastWeightsOptions, a: Tensor, h: Tensor) -> Tensor:
    return options.decay * a + options.rate * torch.einsum("bi,bj->bij", h, h)

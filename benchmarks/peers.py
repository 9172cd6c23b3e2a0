"""The attention form as anyone would write it in differentiable PyTorch operators: the peer that torch.compile gets.

`jax_peer` is the same in JAX. Both know wenke2019 and one inner step alone, as the retrieval task uses them. Of three
ways to write the read (batched products, elementwise products and sums, one written vector at a time) batched
products were the fastest or level, in both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

DECAY, RATE, EPS = 0.95, 0.5, 1e-5


def attention_form(
    inputs: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    a0: Tensor | None = None,
) -> Tensor:
    """All h(t), (B, T, H), for inputs (B, T, H), h0 (B, H) and A(0) None or (B, H, H)."""
    h, written, outputs = h0, [], []
    for t, projected in enumerate(inputs.unbind(1)):
        z = torch.addmm(projected, h, weight_hh.t())
        query = torch.relu(z)
        written.append(query)
        seen = torch.stack(written, dim=1)
        discounts = torch.tensor([RATE * DECAY ** (t - n) for n in range(t + 1)], dtype=z.dtype)
        scores = torch.bmm(query[:, None], seen.mT) * discounts
        bracket = torch.baddbmm(z[:, None], scores, seen)[:, 0]
        if a0 is not None:
            bracket = bracket + DECAY ** (t + 1) * torch.bmm(a0, query[:, :, None])[:, :, 0]
        h = torch.relu(functional.layer_norm(bracket, h.shape[1:], norm_weight, norm_bias, EPS))
        outputs.append(h)
    return torch.stack(outputs, dim=1)


def retrieval_loss(parameters: Mapping[str, Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the retrieval model, by the names of `RetrievalModel`'s state dict.

    tokens (B, T), targets (B,). Where there are no heads h(0) and A(0) are zero, else functions of the first token.
    """
    embedded = functional.embedding(tokens, parameters["embedding.weight"])
    network = {name: parameters[f"rnn.network.{name}"] for name in NETWORK}
    width = len(network["weight_hh"])
    h0, a0 = embedded.new_zeros(len(tokens), width), None
    if f"{HEADS}.h.weight" in parameters:
        h0, a0 = (_linear(embedded[:, 0], parameters, f"{HEADS}.{leaf}") for leaf in "ha")
        a0 = a0.unflatten(1, (width, width))
    projected = functional.linear(embedded, network["weight_ih"], network["bias"])
    output = attention_form(projected, network["weight_hh"], h0, network["norm_weight"], network["norm_bias"], a0)
    hidden = torch.relu(_linear(output[:, -1], parameters, "hidden"))
    return functional.cross_entropy(_linear(hidden, parameters, "readout"), targets)


NETWORK = ("weight_ih", "weight_hh", "bias", "norm_weight", "norm_bias")
HEADS = "rnn.initial_state.heads.layers"


def _linear(inputs: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    return functional.linear(inputs, parameters[f"{name}.weight"], parameters[f"{name}.bias"])

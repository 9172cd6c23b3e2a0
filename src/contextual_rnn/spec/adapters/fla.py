"""flash-linear-attention: layers of linear attention, whose state is a matrix for each head and what convolutions read.

The package passes both in its own cache, which is made and read here with every call. Its kernels are Triton's.
"""

# flash-linear-attention is not installed where types are checked.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

import torch
from fla.layers import DeltaNet, GatedLinearAttention  # pyright: ignore[reportMissingImports]
from fla.models.utils import Cache  # pyright: ignore[reportMissingImports]
from torch import Tensor

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State

_CONVOLUTIONS = ("q_conv1d", "k_conv1d", "v_conv1d")


@state_spec.register(DeltaNet)
@state_spec.register(GatedLinearAttention)
def _(network: Any) -> StateSpec:
    if network.layer_idx is None:
        kind = type(network).__name__
        raise ValueError(
            f"network: expected {kind} with layer_idx=..., under which its cache keeps the state, got None"
        )
    matrix = Leaf("S", (network.num_heads, network.head_k_dim, network.head_v_dim), dtype=torch.float32)
    convolutions = None
    if network.use_short_conv:
        parts = [getattr(network, name) for name in _CONVOLUTIONS]
        convolutions = tuple(
            Leaf(f"conv_{name[0]}", (part.hidden_size, part.kernel_size[0]))
            for name, part in zip(_CONVOLUTIONS, parts, strict=True)
        )
    tree = {"recurrent_state": matrix, "conv_state": convolutions} if convolutions else {"recurrent_state": matrix}
    return StateSpec(tree, input_ndim=3, time_dim=1, call=_call).like(next(network.parameters()))


def _call(network: Any, inputs: Tensor, state: State, **arguments: Any) -> tuple[Tensor, State]:
    cache = Cache()
    cache.update(**state, layer_idx=network.layer_idx, offset=0)
    output, _, cache = network(inputs, past_key_values=cache, use_cache=True, **arguments)
    kept = cache[network.layer_idx]
    return output, {name: tuple(kept[name]) if name == "conv_state" else kept[name] for name in state}

"""flash-linear-attention: layers whose state is a matrix for each head and the last inputs of short convolutions.

The package keeps both in a cache of its own, which is made and read here with every call. Its kernels are Triton's, for
GPUs. Not KimiDeltaAttention: on a CPU its gradients by the state differ from finite differences.
"""

# flash-linear-attention is not installed where types are checked.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

import torch
from fla.layers import DeltaNet, GatedDeltaNet, GatedLinearAttention  # pyright: ignore[reportMissingImports]
from fla.models.utils import Cache  # pyright: ignore[reportMissingImports]
from torch import Tensor

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State


@state_spec.register(DeltaNet)
@state_spec.register(GatedDeltaNet)
@state_spec.register(GatedLinearAttention)
def _(network: Any) -> StateSpec:
    if network.layer_idx is None:
        kind = type(network).__name__
        raise ValueError(
            f"network: expected {kind} with layer_idx=..., under which its cache keeps the state, got None"
        )
    heads, keys, values = getattr(network, "num_v_heads", network.num_heads), network.head_k_dim, network.head_v_dim
    shape = (heads, keys, values) if isinstance(network, DeltaNet) else (heads, values, keys)
    tree: dict[str, State] = {"recurrent_state": Leaf("S", shape, dtype=torch.float32)}
    if network.use_short_conv:
        parts = [(name, getattr(network, f"{name}_conv1d")) for name in "qkv"]
        tree["conv_state"] = tuple(
            Leaf(f"conv_{name}", (part.hidden_size, part.kernel_size[0])) for name, part in parts
        )
    return StateSpec(tree, input_ndim=3, time_dim=1, call=_call).like(next(network.parameters()))


def _call(network: Any, inputs: Tensor, state: State, **arguments: Any) -> tuple[Tensor, State]:
    cache = Cache()
    cache.update(**state, layer_idx=network.layer_idx, offset=0)
    output, _, cache = network(inputs, past_key_values=cache, use_cache=True, **arguments)
    state_after = cache[network.layer_idx]
    return output, {name: tuple(state_after[name]) if name == "conv_state" else state_after[name] for name in state}

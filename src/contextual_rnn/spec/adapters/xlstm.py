"""xlstm: stacks of mLSTM and sLSTM blocks, run step by step.

The package runs whole sequences from zeros alone, except for an sLSTM, so that the spec runs `step` over time. Its four
tensors of an sLSTM, stacked there, are leaves of their own here: the normaliser n alone is positive.
"""

# xlstm is not installed where types are checked.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from xlstm import mLSTMLayer, sLSTMLayer, xLSTMBlockStack  # pyright: ignore[reportMissingImports]
from xlstm.blocks.xlstm_block import xLSTMBlock  # pyright: ignore[reportMissingImports]

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State


@state_spec.register(xLSTMBlockStack)
def _(network: Any) -> StateSpec:
    blocks = {f"block_{number}": _state_of(block.xlstm, str(number)) for number, block in enumerate(network.blocks)}
    return _spec(network, blocks)


@state_spec.register(xLSTMBlock)
def _(network: Any) -> StateSpec:
    return _spec(network, _state_of(network.xlstm))


@state_spec.register(mLSTMLayer)
@state_spec.register(sLSTMLayer)
def _(network: Any) -> StateSpec:
    return _spec(network, _state_of(network))


def _spec(network: Any, tree: State) -> StateSpec:
    like = next(network.parameters())
    return StateSpec(tree, input_ndim=3, time_dim=1, step=_step, call="steps").like(like)


def _state_of(layer: Any, block: str = "") -> dict[str, State]:
    """The state of a layer; `block` is added to the names of its leaves."""
    config = layer.config
    if isinstance(layer, sLSTMLayer):
        shape, width = (config.embedding_dim,), config.embedding_dim
        y, c, m = (Leaf(f"{name}{block}", shape) for name in "ycm")
        cell = {"slstm_state": (y, c, Leaf(f"n{block}", shape, domain="positive"), m)}
    else:
        width, heads = config._inner_embedding_dim, config.num_heads
        size = width // heads
        shapes = {"c": (heads, size, size), "n": (heads, size, 1), "m": (heads, 1, 1)}
        cell = {"mlstm_state": tuple(Leaf(f"{name}{block}", shape) for name, shape in shapes.items())}
    kernel = config.conv1d_kernel_size
    return {**cell, "conv_state": (Leaf(f"conv{block}", (kernel, width)),) if kernel else None}


def _step(network: Any, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    x = inputs[:, None]
    if isinstance(network, xLSTMBlockStack):
        output, state = network.step(x, {name: _stacked(block) for name, block in state.items()})
        return output[:, 0], {name: _unstacked(block) for name, block in state.items()}
    output, state = network.step(x, **_stacked(state))
    return output[:, 0], _unstacked(state)


def _stacked(state: State) -> State:
    """The state of a layer as the package takes it."""
    return {**state, "slstm_state": torch.stack(state["slstm_state"])} if "slstm_state" in state else state


def _unstacked(state: State) -> State:
    return {**state, "slstm_state": tuple(state["slstm_state"])} if "slstm_state" in state else state

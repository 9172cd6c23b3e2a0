"""The dtype and device that a network's state must have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contextual_rnn._autocast import autocast_joins
from contextual_rnn._sharded import casts_inputs
from contextual_rnn._tensors import first_parameter
from contextual_rnn.spec.networks import state_spec
from contextual_rnn.spec.tree import State, zip_leaves


def check_like(name: str, network: nn.Module, tree: State, state: State) -> None:
    """Refuse a state whose dtype or device is not the network's."""
    like = first_parameter(network)
    if like is None:
        return
    for leaf, tensor in zip_leaves(tree, state, name):
        if _is_like(tensor, leaf.dtype or like.dtype, like.device):
            continue
        if tensor.device == like.device and casts_inputs(network, like):
            continue
        dtype, device = dtype_and_device(network, like)
        dtype = leaf.dtype or dtype
        if not _is_like(tensor, dtype, device):
            received = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name}: expected {leaf.name!r} of {dtype} on {device}, as the network, got {received}")


def dtype_and_device(network: nn.Module, like: Tensor) -> tuple[torch.dtype, torch.device]:
    """The dtype and device of a network's state: its spec may differ from its first parameter, `like`."""
    spec = state_spec(network)
    return spec.dtype or like.dtype, spec.device or like.device


def _is_like(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> bool:
    return tensor.device == device and (tensor.dtype == dtype or autocast_joins(tensor.dtype, dtype, device))

"""States on disk: what a network ended in, to go on from later, in another process or on another machine.

Needs safetensors, which `pip install "contextual-rnn[files]"` brings; nothing else in the library imports this file.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from contextual_rnn._tree import State, has_more, map_leaves, zip_leaves
from contextual_rnn.state_spec import StateSpec, state_spec

CARRIED = "contextual_rnn.carried_state"  # where a file says what state it holds


def save_carried_state(state: State, path: str | Path, network: nn.Module | StateSpec) -> None:
    """Write a state of `network`, batched or not, to a safetensors file: its leaves by name, and its spec in words.

        _, state = model(x, context=context)
        save_carried_state(state, "state.safetensors", model)

    Nothing is pickled. The file is written beside and renamed, so that it is whole or not there. A state of fast
    weights that has A needs `fast_weights_spec(network, "dense")` as `network`.

    Raises TypeError or ValueError for a state that is not of this network.
    """
    spec = state_spec(network)
    spec.check(state, "state")
    if has_more(spec.tree, state):
        raise ValueError(
            f"state: expected {spec.describe()}, got something where it has None; "
            'for fast weights with A give fast_weights_spec(network, "dense")'
        )
    # Copies: a state may be tiled without one, and safetensors takes no two tensors of one memory.
    leaves = {leaf.name: tensor.detach().contiguous().clone() for leaf, tensor in zip_leaves(spec.tree, state, "state")}
    beside = Path(f"{path}.{os.getpid()}.part")
    try:
        save_file(leaves, beside, metadata={CARRIED: spec.describe()})
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_carried_state(
    path: str | Path, network: nn.Module | StateSpec, *, device: torch.device | str = "cpu"
) -> State:
    """Read a state that `save_carried_state` wrote: what `network` takes as `hx`.

    Raises ValueError for a state of another network, which names both, one of another dtype, and a file that is no
    state; FileNotFoundError where there is none.
    """
    spec = state_spec(network)
    try:
        with safe_open(path, framework="pt", device=str(device)) as opened:
            kept = (opened.metadata() or {}).get(CARRIED)
            # Copies: tensors in the file's own memory need not be aligned, and kernels then round otherwise.
            leaves = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path: expected a state as safetensors, got {path}: {error}") from error
    if kept is None:
        raise ValueError(
            f"path: expected a file of save_carried_state, got {path}, of {', '.join(leaves) or 'nothing'}"
        )
    if kept != (ours := spec.describe()) or set(leaves) != {leaf.name for leaf in spec}:
        raise ValueError(f"network: expected one with state {kept}, as the file has, got one with state {ours}")
    for leaf in spec:
        dtype, received = spec.dtype_of(leaf), leaves[leaf.name].dtype
        if dtype not in (None, received):
            raise ValueError(f"path: expected leaf {leaf.name!r} of {dtype}, as the network, got {received}")
    state = map_leaves(lambda leaf: leaves[leaf.name], spec.tree)
    spec.check(state, "path")
    return state

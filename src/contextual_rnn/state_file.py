"""One small file for one initial state: what a task adds to a trained network that is frozen.

Needs `pip install "contextual-rnn[files]"`, which is safetensors; nothing else in the library imports this file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from contextual_rnn._tree import Leaf, State
from contextual_rnn.states import InitialState

# Short, for a state may be a kilobyte: {"spec": '["h 1 B 128","c 1 B 128"]'}.
SPEC = "spec"


def save_state(state: InitialState, path: str | Path) -> None:
    """Write the parameters and buffers of `state`, and which state they make, to one safetensors file.

    The file is the bytes of its numbers and a header of about 100 bytes and 70 a tensor, which says the shapes that the
    network takes, with B for the batch: `["h 1 B 128","c 1 B 128"]` for an LSTM of 128 units. It is written beside and
    renamed, so that nobody sees half a file. Raises TypeError for what is no InitialState.
    """
    _check(state)
    tensors = {name: tensor.contiguous() for name, tensor in _numbers(state).items()}
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(save(tensors, metadata={SPEC: _describe(state)}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_state(state: InitialState, path: str | Path) -> None:
    """Give `state` the numbers of a file in place: the parameters stay the same objects, on their device.

    Nothing in the file is executed. Raises TypeError for what is no InitialState, FileNotFoundError, and ValueError for
    what is no file of an initial state, a state for another network (both are shown), or numbers of another kind of
    state. A refused file changes nothing.
    """
    _check(state)
    try:
        with safe_open(path, framework="pt") as file:
            kept = (file.metadata() or {}).get(SPEC)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise ValueError(f"path: expected a file of save_state, got {path}: {error}") from error
    if kept is None:
        raise ValueError(f"path: expected a file of save_state, got {path}, which names no state")
    if kept != (ours := _describe(state)):
        raise ValueError(f"path: expected a state for {ours}, as this one is, got one for {kept} in {path}")
    found, expected = ({name: tuple(t.shape) for name, t in each.items()} for each in (tensors, _numbers(state)))
    if found != expected:
        raise ValueError(f"path: expected a {type(state).__name__} of {expected}, got {found} in {path}")
    state.load_state_dict(tensors, strict=False)


def _check(state: InitialState) -> None:
    if not isinstance(state, InitialState):
        raise TypeError(f"state: expected an InitialState, got {type(state).__name__}")


def _numbers(state: InitialState) -> dict[str, Tensor]:
    """Each parameter and buffer once, under its first name: two heads may share a context network."""
    named = state.state_dict(keep_vars=True)
    names = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: named[name].detach() for name in reversed(names.values())}


def _describe(state: InitialState) -> str:
    """The tree as JSON: what a network takes, whichever initial state made it."""
    return json.dumps(_words(state.spec.tree), separators=(",", ":"), sort_keys=True)


def _words(tree: State) -> State:
    if isinstance(tree, Leaf):
        sizes = list(map(str, tree.network_shape))
        sizes.insert(tree.batch_dim, "B")
        return " ".join([tree.name, *sizes])
    if isinstance(tree, Mapping):
        return {str(name): _words(child) for name, child in tree.items()}
    return None if tree is None else [_words(child) for child in tree]

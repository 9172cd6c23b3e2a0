"""States on disk: an initial state as one small file, and the final state of a network, to continue from later.

Needs `pip install "contextual-rnn[files]"`, which is safetensors; without this module the library does not import it.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import check_device, check_flag, listed, shortened_text
from contextual_rnn._saved_numbers import (
    check_savable,
    checked,
    differing_words,
    keys_of_numbers,
    numbers_in,
    numbers_of,
    owners,
    words_in,
)
from contextual_rnn._tensors import check_readable, is_finite
from contextual_rnn.serialization.file_format import (
    CARRIED,
    STATE,
    WEIGHTS,
    WRITERS,
    Contents,
    check_tensors,
    read_file,
    structure_of,
    write_file,
)
from contextual_rnn.spec.networks import StateSpec, spec_of, state_spec
from contextual_rnn.spec.rows import has_more
from contextual_rnn.spec.tree import State, map_leaves, zip_leaves
from contextual_rnn.states.base import InitialState


def save_state(state: InitialState, path: str | os.PathLike[str]) -> None:
    """Write the parameters, buffers and numbers of `state`, and which state they make, to one safetensors file.

    The file is the bytes of its numbers and a header of about 100 bytes and 70 a tensor, which says the shapes that the
    network takes, with B for the batch: `["h 1 B 128","c 1 B 128"]` for an LSTM of 128 units. Functions, such as an
    activation, are named in it. It is written beside and renamed, so that nobody sees half a file.

    Raises TypeError for what is no InitialState, TypeError or ValueError for one of its numbers that no state may have,
    NaN among them, and OSError, which names the file. The old file then stays as it was.
    """
    _check_state(state)
    for _, owner in owners(state):
        check_savable(owner)
    values = {key: numbers_of(owner)[name] for key, (owner, name) in numbers_in(state).items()}
    write_file(path, STATE, state.spec.tree, tensors_of(state), values, words_in(state))


def load_state(state: InitialState, path: str | os.PathLike[str]) -> None:
    """Give `state` the numbers of a file in place: the parameters stay the same objects, on their device.

    Nothing in the file is executed. A refused file changes nothing. Raises TypeError for what is no InitialState,
    OSError for a file that cannot be read, and ValueError for what is no file of an initial state, a state for another
    network (both are shown), numbers of another kind of state or another dtype or that are not finite, and another
    function than `state` has; each names the file.
    """
    _check_state(state)
    contents = _read(path, STATE)
    if contents.structure is None:
        raise ValueError(f"path: expected a file of save_state, got {path}, which names no state")
    if not contents.is_for(state.spec.tree):
        ours, theirs = structure_of(state.spec.tree), shortened_text(contents.structure)
        raise ValueError(f"path: expected a state for {ours}, as this one is, got one for {theirs} in {path}")
    try:
        check_tensors(type(state).__name__, tensors_of(state), contents.tensors)
        numbers = {} if contents.version == 0 else _checked_numbers(state, contents)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"path: {shortened_text(error)} in {path}") from error
    state.load_state_dict(contents.tensors, strict=False)
    for key, (owner, name) in numbers_in(state).items():
        if key in numbers:
            setattr(owner, name, numbers[key])


def save_carried_state(state: State, path: str | os.PathLike[str], network: nn.Module | StateSpec) -> None:
    """Write a state of `network`, batched or not, to a safetensors file: its leaves by name, and its structure.

        _, state = model(x, context=context)
        save_carried_state(state, "state.safetensors", model)

    Nothing is pickled. The file is written beside and renamed, so that it is whole or not there. A state of fast
    weights that has A needs `fast_weights_spec(network, "dense")` as `network`.

    Raises TypeError or ValueError for a state that is not of this network or whose numbers are not finite, and OSError,
    which names the file. The old file then stays as it was.
    """
    spec = spec_of(network)
    spec.check_domains(spec.check(state, "state"), "state")
    if has_more(spec.tree, state):
        raise ValueError(
            f"state: expected {spec.describe()}, got something where it has None; "
            'for fast weights with A give fast_weights_spec(network, "dense")'
        )
    leaves = {leaf.name: tensor for leaf, tensor in zip_leaves(spec.tree, state, "state")}
    for tensor in leaves.values():
        check_readable("state", tensor)
    write_file(path, CARRIED, spec.tree, leaves)


def load_carried_state(
    path: str | os.PathLike[str], network: nn.Module | StateSpec, *, device: torch.device | str = "cpu"
) -> State:
    """Read a state that `save_carried_state` wrote: what `network` takes as `hx`.

    Raises OSError for a file that cannot be read, and ValueError for a state of another network, which shows both, one
    of another dtype or with numbers that are not finite, and a file that is no state; each names the file.
    """
    device, spec = check_device(device) or "cpu", spec_of(network)
    contents = _read(path, CARRIED)
    leaves = contents.tensors
    if contents.structure is None:
        received = listed(leaves) or "nothing"
        raise ValueError(f"path: expected a file of save_carried_state, got {path}, of {received}")
    if not contents.is_for(spec.tree) or set(leaves) != {leaf.name for leaf in spec}:
        raise ValueError(
            f"network: expected one with state {contents.described()}, as the file has, "
            f"got one with state {spec.describe()}: {path}"
        )
    for leaf in spec:
        name, tensor, dtype = leaf.name, leaves[leaf.name], spec.dtype_of(leaf)
        if dtype not in (None, tensor.dtype):
            raise ValueError(f"path: expected leaf {name!r} of {dtype}, as the network, got {tensor.dtype} in {path}")
        if not is_finite(tensor):
            raise ValueError(f"path: expected finite numbers in leaf {name!r}, got NaN or infinity in {path}")
    # Copies: kernels may round differently where memory is not aligned like torch's own.
    state = map_leaves(lambda leaf: leaves[leaf.name].to(device, copy=True), spec.tree)
    try:
        spec.check_domains(spec.check(state, "path"), "path")
    except ValueError as error:
        raise ValueError(f"{error} in {path}") from error
    return state


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write all of a model, its numbers as tensors; raises as `save_state`."""
    state = model.state_dict()
    tensors = tensors_of(model) | {key: state[key] for key in keys_of_numbers(model)}
    write_file(path, WEIGHTS, state_spec(model).tree, tensors, words=words_in(model))


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, strict: bool = True) -> None:
    """Load what `save_weights` wrote, or safetensors without a header of ours; a refused file changes nothing.

    `strict=False` allows tensors that are missing and ignores those that the model does not have. Errors as for
    `load_state`.
    """
    check_flag("strict", strict)
    contents = _read(path, WEIGHTS)
    if contents.structure is not None and not contents.is_for((spec := state_spec(model)).tree):
        raise ValueError(
            f"network: expected one with state {contents.described()}, as the weights have, "
            f"got one with state {spec.describe()}: {path}"
        )
    names, expected = _first_names(model), tensors_of(model)
    owners = keys_of_numbers(model)
    tensors = {names.get(name, name): tensor for name, tensor in contents.tensors.items() if name not in owners}
    numbers = {name: tensor for name, tensor in contents.tensors.items() if name in owners}
    if not strict:
        tensors = {name: tensor for name, tensor in tensors.items() if name in expected}
        expected = {name: expected[name] for name in tensors}
    try:
        for sentence in differing_words(words_in(model), contents.words) if contents.version else ():
            raise ValueError(sentence)
        check_tensors(type(model).__name__, expected, tensors)
        for key, tensor in numbers.items():
            owner, name = owners[key]
            checked(owner, name, tensor, key)
    except (TypeError, ValueError) as error:
        raise ValueError(f"weights: {shortened_text(error)} in {path}") from error
    model.load_state_dict(tensors | numbers, strict=False)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Each parameter and buffer once, under its first name: two heads may share a context network."""
    names, state = _first_names(module), module.state_dict(keep_vars=True)
    return {name: state[name] for name, first in names.items() if name == first}


def _first_names(module: nn.Module) -> dict[str, str]:
    """Of every name of a parameter or buffer the first name of the same one."""
    numbers, first, names = keys_of_numbers(module), {}, {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in numbers:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"state: expected parameters and buffers alone, got {type(tensor).__name__} as {name}")
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
        same = (tensor.data_ptr(), tensor.shape, tensor.stride()) if plain and tensor.numel() else id(tensor)
        names[name] = first.setdefault(same, name)
    return names


def _read(path: str | os.PathLike[str], kind: str) -> Contents:
    try:
        return read_file(path, kind)
    except ValueError as error:
        raise ValueError(f"path: expected a file of {WRITERS[kind]}, got {path}: {shortened_text(error)}") from error


def _checked_numbers(state: InitialState, contents: Contents) -> dict[str, Any]:
    """The numbers of a file for `state`, those that are left out as 0; errors name the number or word that differs."""
    for sentence in differing_words(words_in(state), contents.words):
        raise ValueError(sentence)
    owners = numbers_in(state)
    for key in contents.numbers.keys() - owners.keys():
        raise ValueError(f"{key}: expected no such number in a {type(state).__name__}, got {contents.numbers[key]!r}")
    numbers = {key: contents.numbers.get(key, 0.0) for key in owners}
    return {key: checked(owner, name, numbers[key], key) for key, (owner, name) in owners.items()}


def _check_state(state: InitialState) -> None:
    if not isinstance(state, InitialState):
        raise TypeError(f"state: expected an InitialState, got {type(state).__name__}")

"""The one format of our files: safetensors, with a header that says which state its numbers are for.

The header is the metadata of a safetensors file, texts by name:

    h0v1, hxv1 or weightsv1    the state's structure as JSON: ["h 1 B 128","c 1 B 128"], B where the batch axis is, and
                               after the sizes a leaf's dtype and domain where it has them: "n B 4 float32 in:positive"
    numbers                    numbers that are no tensors, as JSON by name; one of 0 is left out
    words                      names of functions and the like, as JSON by name

The first name says what the file holds and in which version of this format. All are short, for a state may be a
kilobyte. Version 0 had other names, and neither numbers nor words; its files still load.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from contextual_rnn._numbers import shortened_text
from contextual_rnn._sharded import is_sharded
from contextual_rnn._tensors import NOT_MADE, check_readable, comparable, is_finite, is_lazy
from contextual_rnn._torch_internals import is_transformed
from contextual_rnn._whole_file import check_path, write_whole
from contextual_rnn.ops.native.memory import addresses_of
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.tree import State

VERSION = 1
# The content of a file: an initial state, a final state of a network, or a whole model.
STATE, CARRIED, WEIGHTS = "h0", "hx", "weights"
NAME = re.compile(f"({STATE}|{CARRIED}|{WEIGHTS})v(.*)", re.DOTALL)
# What writes it, and the name that its structure had in version 0.
WRITERS = {STATE: "save_state", CARRIED: "save_carried_state", WEIGHTS: "save_pretrained"}
VERSION_0 = {STATE: "spec", CARRIED: "contextual_rnn.carried_state", WEIGHTS: "contextual_rnn.state"}

IN = "in:"  # before the name of a domain
NOT_IN_SAFETENSORS = (torch.complex32, torch.complex128)
METADATA = "__metadata__"
LENGTH_BYTES = 8  # of the number before the header that says how long it is


@dataclass(frozen=True)
class Contents:
    """What is in a file: `structure` is what its header says of the state, None without a header of ours."""

    tensors: dict[str, Tensor]
    structure: str | None = None
    version: int = VERSION
    numbers: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    in_words: bool = False  # of version 0, where some structures are words

    def is_for(self, tree: State) -> bool:
        ours = structure_of(tree)
        return self.structure == (in_words(ours) if self.in_words else ours)

    def described(self) -> str:
        """The structure in words, for messages."""
        text = str(self.structure)
        if not self.in_words:
            with contextlib.suppress(ValueError, RecursionError):
                text = in_words(text)
        return shortened_text(text)


def write_file(
    path: str | os.PathLike[str],
    kind: str,
    tree: State,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any] | None = None,
    words: Mapping[str, str | None] | None = None,
) -> None:
    """Write tensors and a header; raises OSError, which names `path`, and leaves the old file as it was.

    ValueError names a tensor that is sharded, on meta, or of a dtype that safetensors does not have, and one with
    numbers that nothing could load.
    """
    header = {f"{kind}v{VERSION}": structure_of(tree)}
    if written := {name: number for name, number in (numbers or {}).items() if number != 0}:
        header["numbers"] = _compact(written)
    if named := {name: word for name, word in (words or {}).items() if word is not None}:
        header["words"] = _compact(named)
    for name, tensor in tensors.items():
        check_readable(name, tensor)
        if is_sharded(tensor):
            raise ValueError(f"{name}: expected all of a tensor, got a shard of it; gather the model before")
        if tensor.dtype in NOT_IN_SAFETENSORS:
            raise ValueError(f"{name}: expected a dtype that safetensors can hold, got {tensor.dtype}")
    data = safetensors_bytes(tensors, header)
    for name, tensor in tensors.items():
        # What is not learned may have infinity, such as a mask: a module that loads the file has the same.
        everywhere_finite = kind == CARRIED or tensor.requires_grad
        if not is_finite(tensor) and (everywhere_finite or bool(comparable(tensor).isnan().any())):
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    write_whole(path, data)


def read_file(path: str | os.PathLike[str], kind: str) -> Contents:
    """The contents of a file of `kind`; ValueError says what else it is, OSError names a file that cannot be read."""
    header, tensors = read_safetensors(path)
    kinds = {match[1]: match[2] for match in map(NAME.fullmatch, header) if match}
    kinds |= {each: "0" for each, name in VERSION_0.items() if name in header and each not in kinds}
    if others := [WRITERS[other] for other in kinds if other != kind]:
        raise ValueError(f"one of {others[0]}")
    version = kinds.get(kind, "0")
    if version == "0":
        return Contents(tensors, header.get(VERSION_0[kind]), 0, in_words=kind != STATE)
    if version != str(VERSION):
        raise ValueError(f"one of version {shortened_text(version)}; this contextual_rnn reads versions 0 to {VERSION}")
    numbers, words = (parse_json(header.get(name, "{}")) for name in ("numbers", "words"))
    for name, entries in (("numbers", numbers), ("words", words)):
        if not isinstance(entries, dict):
            raise ValueError(f"one whose {name} are no JSON object")
    if not all(isinstance(word, str) for word in words.values()):
        raise ValueError("one whose words are no texts")
    return Contents(tensors, header[f"{kind}v{version}"], VERSION, numbers, words)


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its contents alone: safetensors writes metadata in a random order.

    ValueError names a tensor without memory, such as a fake one, one of torch.func, and one of the header's name.
    """
    if METADATA in tensors:
        raise ValueError(f"{METADATA}: expected a tensor of another name, as safetensors has its header under this one")
    for name, tensor in tensors.items():
        if is_transformed(tensor):
            raise ValueError(f"{name}: expected a tensor whose values can be read, got one that torch.func made")
    # Copies: safetensors refuses tensors that share memory, as tied and flattened ones may.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    addresses_of(list(copies.values()), list(copies))
    data = save(copies)
    length = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = _compact({METADATA: metadata}, sort_keys=False)[:-1].encode()
    entries = data[LENGTH_BYTES + 1 : length].rstrip()
    header += b"," * (len(entries) > 1) + entries
    header += b" " * (-len(header) % LENGTH_BYTES)  # so that what follows is aligned
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + data[length:]


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and tensors of a safetensors file, which is read once and never mapped into memory.

    Raises OSError, which names a file that cannot be read, and ValueError, which says what else the file is.
    """
    data = read_bytes(path)
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if not 0 < length <= len(data) - LENGTH_BYTES:
        raise ValueError("no safetensors file, or not the whole of one")
    header = parse_json(data[LENGTH_BYTES : LENGTH_BYTES + length])
    if not isinstance(header, dict):
        raise ValueError("no safetensors file: its header is no JSON object")
    metadata = header.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("no safetensors file: its metadata are no texts by name")
    try:
        return metadata, load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"no safetensors file, or not the whole of one: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:  # a dtype that torch does not have
        raise ValueError(f"numbers of a type that this torch does not read: {error}") from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file; OSError names one that cannot be read, ValueError says that it is something else."""
    check_path(path)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError("a folder" if stat.S_ISDIR(mode) else "no regular file")
    return Path(path).read_bytes()


def parse_json(text: str | bytes) -> Any:
    """JSON without doubled names and numbers that are not finite; ValueError for anything else."""
    try:
        return json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_without_doubles,
            parse_constant=_no_constant,
        )
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"text that is no UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"text that is no JSON: {error}") from error


def check_tensors(module: str, expected: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> None:
    """ValueError where names, shapes, types or numbers are not those that `module` can take.

    A number that is not finite is taken only where the module has the same one, such as -inf in a mask.
    """
    for name, tensor in expected.items():
        if is_lazy(tensor):
            raise ValueError(f"expected a {module} with {name!r} in memory, got one {NOT_MADE}")
    ours, theirs = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (expected, received))
    if differing := [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]:
        shapes = ({name: each[name] for name in differing if name in each} for each in (ours, theirs))
        raise ValueError("expected a {} of {}, got {}".format(module, *shapes))
    for name, tensor in received.items():
        if expected[name].is_meta:
            raise ValueError(f"expected a {module} with {name!r} in memory, got it on meta")
        if tensor.dtype != expected[name].dtype:
            raise ValueError(f"expected {name!r} of {expected[name].dtype}, as the {module} is, got {tensor.dtype}")
    for name, tensor in received.items():
        if not is_finite(tensor) and not _is_finite_or_as(tensor, expected[name]):
            raise ValueError(f"expected finite numbers in {name!r}, got NaN or infinity")


def _is_finite_or_as(tensor: Tensor, own: Tensor) -> bool:
    tensor = comparable(tensor)
    return bool((tensor.isfinite() | (tensor == comparable(own.detach().cpu()))).all())


def structure_of(tree: State) -> str:
    """A tree as JSON: what a network takes, whichever initial state made it."""
    return _compact(_structure(tree))


def in_words(structure: str) -> str:
    """A structure as messages show it. Version 0 wrote these words into files: they stay as they are."""
    return _in_words(parse_json(structure))


def _structure(tree: State) -> State:
    if isinstance(tree, Leaf):
        sizes = list(map(str, tree.network_shape))
        sizes.insert(tree.batch_dim, "B")
        dtype = [str(tree.dtype).removeprefix("torch.")] if tree.dtype else []
        domain = [f"{IN}{tree.domain}"] if tree.domain else []
        return " ".join([tree.name, *sizes, *dtype, *domain])
    if isinstance(tree, Mapping):
        return {str(name): _structure(child) for name, child in tree.items()}
    return None if tree is None else [_structure(child) for child in tree]


def _in_words(structure: Any) -> str:
    if isinstance(structure, dict):
        return "{" + ", ".join(f"{name}: {_in_words(child)}" for name, child in structure.items()) + "}"
    if isinstance(structure, list):
        return "(" + ", ".join(map(_in_words, structure)) + ")"
    if structure is None:
        return "None"
    name, *sizes = str(structure).split(" ")
    domain = f", {sizes.pop().removeprefix(IN)}" if sizes and sizes[-1].startswith(IN) else ""
    dtype = f", torch.{sizes.pop()}" if sizes and sizes[-1] != "B" and not sizes[-1].isdecimal() else ""
    batched, one = ", ".join(sizes).replace("B", "batch"), [size for size in sizes if size != "B"]
    example = f"({one[0]},)" if len(one) == 1 else f"({', '.join(one)})"
    return f"{name} of shape ({batched}) or {example} without a batch{dtype}{domain}"


def _compact(value: Any, *, sort_keys: bool = True) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=sort_keys)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("JSON that has a name twice")
    return entries


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON with {name}")

"""Files of states and weights, damaged: one documented error that names the file, or numbers that are sound."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.fuzz.calls import OURS
from tests.fuzz.draw import Draw, network_and_spec, random_state, subject
from tests.fuzz.of_files import hub_model
from tests.fuzz.outcome import Outcome
from tests.networks import tensors_of
from torch import Tensor, nn

from contextual_rnn.carried_state import load_carried_state, save_carried_state
from contextual_rnn.hub import HubContextualRNN
from contextual_rnn.state_file import load_state, save_state

LONGEST = 10_000  # characters of a message
DOCUMENTED = (ValueError, TypeError, OSError)


@dataclass
class Saved:
    """A file on disk, how it is loaded, and what a refusal must leave as it was."""

    path: Path
    load: Callable[[], Any]
    module: nn.Module | None = None
    folder: Path | None = None


def _state(d: Draw, folder: Path) -> Saved:
    state, path = subject(d).state, folder / "a-state.safetensors"
    save_state(state, path)
    return Saved(path, lambda: (load_state(state, path), list(state.state_dict().values()))[1], state)


def _carried(d: Draw, folder: Path) -> Saved:
    _, spec = network_and_spec(d)
    path = folder / "a-carried.safetensors"
    save_carried_state(random_state(spec, d.choose([None, 1, 3])), path, spec)
    return Saved(path, lambda: tensors_of(load_carried_state(path, spec)))


def _hub(d: Draw, folder: Path) -> Saved:
    model, home = hub_model(), folder / "hub"
    model.save_pretrained(home)
    if not (home / "config.json").exists():
        (home / "config.json").write_text("{}")

    def load() -> Any:
        loaded = HubContextualRNN.from_pretrained(home, network=model.network, initial_state=model.initial_state,
                                                  local_files_only=True)  # fmt: skip
        return list(loaded.state_dict().values())

    return Saved(home / "model.safetensors", load, folder=home)


KINDS: dict[str, Callable[[Draw, Path], Saved]] = {"load_state": _state, "load_carried_state": _carried, "hub": _hub}


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _flip(d: Draw, path: Path, start: int, stop: int) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(d.choose([1, 1, 2, 8])):
        data[d.random.randrange(start, max(start + 1, min(stop, len(data))))] ^= 1 << d.random.randrange(8)
    path.write_bytes(bytes(data))


def _in_header(d: Draw, path: Path) -> None:
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    _flip(d, path, 8, 8 + length)


def _shorter(d: Draw, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: d.random.randrange(len(data))])


def _tensors(header: dict[str, Any]) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def _edit(change: Callable[[Draw, dict[str, Any]], Any]) -> Callable[[Draw, Path], None]:
    """A change of the header; what it returns is written in its place, if anything."""

    def damage(d: Draw, path: Path) -> None:
        header, data = split(path)
        changed = change(d, header)
        join(path, header if changed is None else changed, data)

    return damage


def _of_tensor(key: str, values: list[Any]) -> Callable[[Draw, Path], None]:
    def change(d: Draw, header: dict[str, Any]) -> None:
        names = _tensors(header)
        if names:
            header[d.choose(names)][key] = d.choose(values)

    return _edit(change)


def _metadata(d: Draw, header: dict[str, Any]) -> None:
    texts = [
        "", "{}", "[]", "null", "1", "NaN", '"h"', "[" * 100_000, '{"h":' * 50_000, "[[[[" * 10, "h 1 B 5", "\0", "é",
        '["h 1 B 5"]', '{"version": 999}', '{"version": "one"}', '{"version": null}', '{"a":1,"a":2}', "9" * 400,
    ]  # fmt: skip
    metadata = header.setdefault("__metadata__", {})
    name = d.choose(list(metadata) or ["spec"])
    change = d.choose(["text", "text", "cut", "gone", "type", "more", "char"])
    if change == "text":
        metadata[name] = d.choose(texts)
    elif change == "cut":
        metadata[name] = str(metadata.get(name, ""))[:-3]
    elif change == "gone":
        header.pop("__metadata__")
    elif change == "type":
        header["__metadata__"] = d.choose([[], 1, None, "spec", {name: 1}, {name: None}, {name: []}])
    elif change == "more":
        metadata["another"] = d.choose(texts)
    else:
        text = str(metadata.get(name, "x")) or "x"
        place = d.random.randrange(len(text))
        metadata[name] = text[:place] + d.choose(["\\", '"', "{", "9", "B", "", "\u202e"]) + text[place + 1 :]


def _rename(d: Draw, header: dict[str, Any]) -> None:
    names = _tensors(header)
    if names:
        header[d.choose(["another", "", "../x", "h" * 10_000, "spec"])] = header.pop(d.choose(names))


def _drop(d: Draw, header: dict[str, Any]) -> None:
    names = _tensors(header)
    if names:
        header.pop(d.choose(names))


def _add(d: Draw, header: dict[str, Any]) -> None:
    end = max((header[name]["data_offsets"][1] for name in _tensors(header)), default=0)
    header["another"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def _doubled(d: Draw, header: dict[str, Any]) -> bytes:
    text = json.dumps(header)
    return (text[:-1] + ", " + text[1:]).encode()


def _deep(d: Draw, header: dict[str, Any]) -> bytes:
    short = [b"{}", b"[]", b"null", b"", b"\xff\xfe", b" " * 99]
    return d.choose([*short, b"[" * 100_000, b'{"a":' * 100_000, b"[" * 9_000_000])


def _spoil(d: Draw, path: Path) -> None:
    """Numbers that are not finite, in the place of some."""
    header, data = split(path)
    if len(data) >= 4:
        spoiled, place = bytearray(data), 4 * d.random.randrange(len(data) // 4)
        spoiled[place : place + 4] = struct.pack("<f", d.choose([math.nan, math.inf, -math.inf]))
        join(path, header, bytes(spoiled))


def _cast(d: Draw, path: Path) -> None:
    """All tensors of another dtype, the file sound in itself."""
    from safetensors.torch import load, save_file

    header, _ = split(path)
    dtype = d.choose([torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
    tensors = {name: tensor.to(dtype) for name, tensor in load(path.read_bytes()).items()}
    save_file(tensors, path, metadata=header.get("__metadata__"))


def _length(d: Draw, path: Path) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    other = d.choose([0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1, len(data)])
    path.write_bytes(struct.pack("<Q", other) + data[8:])


def _replace(make: Callable[[Path], Any]) -> Callable[[Draw, Path], None]:
    def damage(d: Draw, path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _another(d: Draw, path: Path) -> None:
    """A sound file of another kind, or of another network."""
    kind = d.choose(list(KINDS))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(KINDS[kind](d, Path(folder)).path, path)


DAMAGES: dict[str, Callable[[Draw, Path], None]] = {
    "bits": lambda d, path: _flip(d, path, 0, 1 << 30),
    "bits of the length": lambda d, path: _flip(d, path, 0, 8),
    "bits of the header": _in_header,
    "cut off": _shorter,
    "longer": lambda d, path: path.write_bytes(path.read_bytes() + d.choose([b"\0", b"x" * 1000])),
    "metadata": _edit(_metadata),
    "dtype": _of_tensor("dtype", ["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "", "X", None, 1, []]),
    "shape": _of_tensor("shape", [[], [0], [-1], [2**63], [2**64], [1.5], ["1"], None, 1, [1] * 100, [2**40, 2**40]]),
    "offsets": _of_tensor("data_offsets", [[0, 0], [4, 0], [0, 2**63], [-4, 4], [0], [], None, [0, 1.5], [8, 12]]),
    "a renamed tensor": _edit(_rename),
    "a tensor less": _edit(_drop),
    "a tensor more": _edit(_add),
    "every key twice": _edit(_doubled),
    "another header": _edit(_deep),
    "length": _length,
    "not finite": _spoil,
    "another dtype": _cast,
    "a folder": _replace(lambda path: path.mkdir()),
    "missing": _replace(lambda path: None),
    "empty": _replace(lambda path: path.write_bytes(b"")),
    "text": _replace(lambda path: path.write_text("a state")),
    "a pickle": _replace(lambda path: torch.save({"h": torch.zeros(1)}, path)),
    "a link to itself": _replace(lambda path: path.symlink_to(path)),
    "a link to nothing": _replace(lambda path: path.symlink_to("/dev/null")),
    "another file": _another,
}
# Of a hub's folder.
CONFIGS = [
    "", "{", "[]", "null", "1", '"x"', "[" * 100_000, '{"a":' * 10_000, '{"hidden_size": "x"}', "\0", '{"a":NaN}',
    '{"network": 1}', '{"a":1,"a":2}', '{"n": 9' + "9" * 5000 + "}",
]  # fmt: skip


def damage(d: Draw, saved: Saved) -> str:
    """Damage the file, or a hub's configuration; returns how."""
    if saved.folder is not None and d.chance(0.25):
        saved.path = config = saved.folder / "config.json"
        if d.chance(0.2):
            config.unlink()
            config.mkdir()
            return "config.json a folder"
        text = d.choose(CONFIGS)
        config.write_text(text)
        return f"config.json {text[:20]!r}"
    name = d.choose(list(DAMAGES))
    DAMAGES[name](d, saved.path)
    return name


def run(seed: str, number: int) -> Outcome:
    """Write a file, damage it, load it."""
    d = Draw(f"{seed}/{number}")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        name = list(KINDS)[number % len(KINDS)]
        saved = KINDS[name](d, Path(folder))
        how = damage(d, saved)
        before = _copies(saved.module)
        try:
            loaded = saved.load()
        except Exception as error:
            return _judged(name, how, saved, before, error)
        if saved.path.name == "config.json":
            return Outcome(name, how, "right")
        for tensor in loaded:
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return Outcome(name, how, "finding", "taken", how, "numbers that are not finite were loaded")
        if how in ("another dtype", "a folder", "a tensor less", "a renamed tensor", "cut off"):
            return Outcome(name, how, "finding", "taken", how, "the damaged file was loaded")
        return Outcome(name, how, "right")


def _judged(name: str, how: str, saved: Saved, before: list[Tensor], error: Exception) -> Outcome:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
    place = f"{os.path.relpath(frames[-1].filename, OURS)}:{frames[-1].name}" if frames else ""
    message, kind = " ".join(str(error).split())[:300], type(error).__name__
    if not isinstance(error, DOCUMENTED):
        return Outcome(name, how, "finding", kind, place, message)
    if len(str(error)) > LONGEST:
        return Outcome(name, how, "finding", "a message of many pages", place, message)
    if saved.path.name not in str(error):
        return Outcome(name, how, "finding", f"{kind} without the file's name", place, message)
    if not all(map(torch.equal, before, _copies(saved.module))):
        return Outcome(name, how, "finding", "changed", place, "a refused file changed the state")
    return Outcome(name, how, "refused", kind, place, message)


def _copies(module: nn.Module | None) -> list[Tensor]:
    return [] if module is None else [tensor.detach().clone() for tensor in module.state_dict().values()]

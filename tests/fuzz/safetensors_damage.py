"""Damage to the header and data of a safetensors file: 8 bytes of length, JSON, numbers."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.fuzz.draw import Draw


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


IN_FILE: dict[str, Callable[[Draw, Path], object]] = {
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
}

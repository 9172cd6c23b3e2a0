"""Damages the folder of a run in one random way, repeatable by its generator.

python -m tests.fuzz.damaged_runs RUN [COUNT [SEED]]    damages COUNT copies and says what `results` and `report` do
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILES = ("config.json", "metrics.jsonl", "result.json", "weights.safetensors", "checkpoint.safetensors")
# Values that stand in the place of others: of every kind, and none that a run would have there.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, 10**400, -(10**400), 0.5, -0.0, 1e-320, 1e300, -1e300,
    "", "one", "0", "true", "<b>yes", "nan", "\x00", "\x1b[31m", "../../x", "\u2028", "é", "x" * 100_000,
    [], [1, 2], [[]], {}, {"a": 1}, {"": {}},
)  # fmt: skip
# Text that no value gives when it is written.
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "1_0", "'a'", '"\\ud800"', "9" * 5000, "")
Json = dict[str, Any]


def damage(folder: Path, rng: random.Random) -> str:
    """Damage one file of the run in `folder` in one way, and say in words what was done."""
    name = rng.choice([name for name in FILES if (folder / name).is_file()])
    path = folder / name
    ways: list[Callable[[Path, random.Random], str]] = [*ON_BYTES, *ON_FILES]
    if path.suffix in (".json", ".jsonl"):
        ways += 3 * [*ON_JSON]  # three times as often: there is most to go wrong
    else:
        ways += ON_TENSORS
    return f"{name}: {rng.choice(ways)(path, rng)}"


def flip(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    count = rng.choice((1, 1, 2, 16))
    places = [rng.randrange(len(data)) for _ in range(count)]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"a bit flipped at {', '.join(map(str, places))}"


def truncate(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    size = rng.choice((0, 1, 7, len(data) - 1, rng.randrange(len(data))))
    path.write_bytes(data[:size])
    return f"cut off after {size} of {len(data)} bytes"


def lengthen(path: Path, rng: random.Random) -> str:
    more = rng.choice((b"\x00" * 64, b"}", b"\n", b"{}\n", b"\xff\xfe", path.read_bytes()))
    path.write_bytes(path.read_bytes() + more)
    return f"{len(more)} bytes more"


def overwrite(path: Path, rng: random.Random) -> str:
    what, data = rng.choice(
        [
            ("random bytes", rng.randbytes(rng.randrange(1, 4000))),
            ("zeros", bytes(path.stat().st_size)),
            ("a list", b"[1, 2]\n"),
            ("a number", b"7\n"),
            ("null", b"null\n"),
            ("an empty object", b"{}\n"),
            ("deep lists", b"[" * 100_000 + b"]" * 100_000 + b"\n"),
            ("deep objects", b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"\n"),
            ("UTF-16", b"\xff\xfe" + path.read_bytes().decode("latin-1").encode("utf-16-le")),
            ("a mark of byte order", b"\xef\xbb\xbf" + path.read_bytes()),
            ("Latin-1", path.read_bytes().replace(b'"', b'"\xe9')),
        ]
    )
    path.write_bytes(data)
    return f"replaced by {what}"


def remove(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "removed"


def folder_instead(path: Path, rng: random.Random) -> str:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "file").write_text("x")
    return "replaced by a folder"


def link_instead(path: Path, rng: random.Random) -> str:
    path.unlink()
    target = rng.choice((path.name, "nowhere", "..", "/dev/null", "config.json", "metrics.jsonl"))
    path.symlink_to(target)
    return f"replaced by a link to {target}"


def pipe_instead(path: Path, rng: random.Random) -> str:
    path.unlink()
    os.mkfifo(path)
    return "replaced by a pipe"


def swap(path: Path, rng: random.Random) -> str:
    others = [name for name in FILES if name != path.name and (path.parent / name).is_file()]
    other = path.parent / rng.choice(others)
    here, there = path.read_bytes(), other.read_bytes()
    path.write_bytes(there)
    other.write_bytes(here)
    return f"exchanged with {other.name}"


def header(path: Path, rng: random.Random) -> str:
    """Of a safetensors file: eight bytes of length, JSON, tensors."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + size])
    what, text = _edited(content, rng)
    raw = text.encode(errors="surrogatepass")
    length = rng.choice((len(raw), len(raw), len(raw), size, 2**63 - 1, 0))
    path.write_bytes(length.to_bytes(8, "little") + raw + data[8 + size :])
    return f"header: {what}, its length said to be {length}"


def other_shape(path: Path, rng: random.Random) -> str:
    import safetensors.torch

    tensors, metadata = _tensors(path)
    name = rng.choice(sorted(tensors))
    what, change = rng.choice(
        [
            ("of another shape", lambda t: t.new_zeros(3, 2)),
            ("flat", lambda t: t.flatten().clone()),
            ("of another dtype", lambda t: t.double() if t.element_size() != 8 else t.int()),
            ("with a nan", lambda t: t.float() * float("nan")),
            ("with an infinity", lambda t: t.float() + float("inf")),
            ("huge", lambda t: t.float().sign() * 3e38),
            ("of huge integers", lambda t: t.new_full(t.shape, 2**31 - 1, dtype=t.int().dtype)),
        ]
    )
    tensors[name] = change(tensors[name])
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    return f"{name} {what}"


def other_tensors(path: Path, rng: random.Random) -> str:
    import safetensors.torch

    tensors, metadata = _tensors(path)
    name = rng.choice(sorted(tensors))
    what = rng.choice(("missing", "renamed", "all missing", "metadata missing"))
    if what == "all missing":
        tensors = {}
    elif what == "metadata missing":
        metadata = None
    else:
        tensor = tensors.pop(name)
        if what == "renamed":
            tensors[f"{name}.x"] = tensor
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    return f"{name} {what}"


def _tensors(path: Path) -> tuple[dict[str, Any], dict[str, str] | None]:
    import safetensors

    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 (not a dict)


def edit(path: Path, rng: random.Random) -> str:
    """Of a JSON file, or of one line of it."""
    lines = path.read_text().splitlines(keepends=True) if path.suffix == ".jsonl" else [path.read_text()]
    index = rng.randrange(len(lines))
    what, text = _edited(json.loads(lines[index]), rng)
    lines[index] = text + "\n"
    path.write_bytes("".join(lines).encode(errors="surrogatepass"))
    return f"line {index + 1}: {what}"


def edit_lines(path: Path, rng: random.Random) -> str:
    lines = path.read_text().splitlines(keepends=True)
    index, what = rng.randrange(len(lines)), rng.choice(("dropped", "twice", "moved to the end", "emptied"))
    line = lines.pop(index)
    if what == "twice":
        lines[index:index] = [line, line]
    elif what == "moved to the end":
        lines.append(line)
    elif what == "emptied":
        lines.insert(index, "\n")
    path.write_text("".join(lines))
    return f"line {index + 1} {what}"


def _edited(content: Json, rng: random.Random) -> tuple[str, str]:
    """Words for one edit of an object, at any depth, and the object's text after it."""
    parent, key = rng.choice(list(_places(content)))
    place = repr(key)
    way = rng.choice(("drop", "retype", "raw", "rename", "nest", "double", "deepen", "case"))
    value = parent[key]
    if way == "drop":
        del parent[key]
        return f"{place} dropped", json.dumps(content)
    if way == "rename" and isinstance(parent, dict):
        name = str(key)
        new = rng.choice((f"{name}x", name[:-1], "", "\x00", "é" + name, "x" * 10_000, "__class__", " " + name))
        parent[new] = parent.pop(key)
        return f"{place} renamed {new[:20]!r}", json.dumps(content)
    if way == "nest":
        parent[key] = rng.choice(([value], {"a": value}, [[value]], {str(key): value}))
        return f"{place} nested", json.dumps(content)
    if way == "case" and isinstance(parent, dict):
        parent[str(key).upper()] = value
        return f"{place} a second time in capitals", json.dumps(content)
    if way in ("raw", "double", "deepen"):
        mark = "@mark@"
        parent[key] = mark
        whole = json.dumps(content)
        if way == "double" and isinstance(parent, dict):
            both = f"{json.dumps(value)}, {json.dumps(key)}: {json.dumps(rng.choice(VALUES))}"
            return f"{place} twice", whole.replace(f'"{mark}"', both)
        text = rng.choice(RAW) if way == "raw" else "[" * 5000 + "]" * 5000
        return f"{place} is now {text[:20]}", whole.replace(f'"{mark}"', text)
    new_value = rng.choice(VALUES)
    parent[key] = new_value
    words = f"a number of {new_value.bit_length()} bits" if type(new_value) is int else repr(new_value)[:40]
    return f"{place} is now {words}", json.dumps(content)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) for every value inside of `value`, itself excluded."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


ON_BYTES = [flip, truncate, lengthen, overwrite]
ON_FILES = [remove, folder_instead, link_instead, pipe_instead, swap]
ON_JSON = [edit, edit, edit, edit_lines]
ON_TENSORS = [header, header, other_shape, other_tensors]


def main(run: Path, count: int = 3000, seed: int = 0) -> int:
    """Damage `count` copies of `run`, each beside a sound one; print what is wrong, return how often it was."""
    from contextual_rnn.experiments.cli.main import main as command

    wrong = refused = 0
    for index in range(count):
        rng = random.Random(f"{seed} {index}")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            shutil.copytree(run, folder / "sound")
            shutil.copytree(run, folder / "damaged")
            what = damage(folder / "damaged", rng)
            for name in ("results", "report"):
                out, error = io.StringIO(), io.StringIO()
                try:
                    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                        status = command([name, str(folder)])
                except BaseException:
                    status, text = -1, traceback.format_exc()
                else:
                    text = error.getvalue()
                refused += bool(text)
                if status or (text and str(folder / "damaged") not in text):
                    wrong += 1
                    print(f"{index} {name}: {what}: {status}: {text}", flush=True)
    print(f"{count} folders, {refused} refusals in {2 * count} commands, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    place, *numbers = sys.argv[1:]
    sys.exit(min(main(Path(place), *map(int, numbers)), 1))

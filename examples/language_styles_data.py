"""Texts of many styles out of files that come with Python, PyTorch and whatever is installed beside them."""

import encodings
import pydoc_data.topics
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LENGTH = 128  # bytes of a text
LIBRARY, PACKAGES = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
TORCH = Path(torch.__file__).parent


def _files(folder: Path, pattern: str, most: int = 150) -> Iterator[bytes]:
    for path in [path for path in sorted(folder.glob(pattern)) if path.is_file()][:most]:
        yield path.read_bytes()[:20_000]


def _tables() -> Iterator[bytes]:
    for path in sorted(Path(encodings.__file__).parent.glob("cp*.py"))[:60]:
        text = path.read_bytes()
        yield text[text.find(b"decoding_table") :][:8000]


SOURCES: dict[str, Callable[[], Iterator[bytes]]] = {
    "Python": lambda: _files(LIBRARY, "*.py"),
    "C++": lambda: _files(TORCH / "include" / "ATen" / "core", "**/*.h"),
    "documentation": lambda: (text.encode() for text in pydoc_data.topics.topics.values()),
    "licences": lambda: _files(PACKAGES, "*.dist-info/**/LICENSE*"),
    "stubs": lambda: _files(TORCH, "**/*.pyi"),
    "metadata": lambda: _files(PACKAGES, "*.dist-info/METADATA"),
    "tables": _tables,
    "records": lambda: _files(PACKAGES, "*.dist-info/RECORD"),
}
TRAINED = ("Python", "C++", "documentation", "licences", "stubs", "metadata")
# A style is a source and what is done to its texts. The network reads the first; the others it never sees.
SEEN = {name: (name, bytes) for name in TRAINED} | {f"{name}, small letters": (name, bytes.lower) for name in TRAINED}
UNSEEN = {
    "documentation in capitals": ("documentation", bytes.upper),
    "tables of characters": ("tables", bytes),
    "lists of files": ("records", bytes),
}


@cache
def _windows(source: str) -> tuple[Tensor, Tensor]:
    """All texts of a source, (N, LENGTH) bytes: four fifths of its files to train on, and the others."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number, text in enumerate(text for text in SOURCES[source]() if len(text) >= LENGTH):
        rows = torch.frombuffer(bytearray(text[: len(text) // LENGTH * LENGTH]), dtype=torch.uint8).view(-1, LENGTH)
        parts[number % 5 == 4].append(rows)
    train, test = (torch.cat(part) for part in parts)
    return train, test


def texts(style: tuple[str, Callable], count: int, generator: torch.Generator, test: bool = False) -> Tensor:
    """(count, LENGTH) bytes of a style as int64, drawn without repetition where there are as many."""
    source, change = style
    rows = _windows(source)[test]
    rounds = -(-count // len(rows))
    rows = rows[torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(rounds)])[:count]]
    return torch.tensor(list(change(rows.numpy().tobytes()))).view(len(rows), LENGTH)

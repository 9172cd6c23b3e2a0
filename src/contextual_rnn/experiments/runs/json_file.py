"""JSON from a file that may be damaged, and a check of its shape. Every error names the file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from contextual_rnn.serialization.file_format import parse_json

# The largest number that a metric can have, which float32 has computed; and the largest int that a float64 has exactly.
LARGEST, LARGEST_INT = 3.4028235e38, 2**53

Shape = Any  # see `check`


def damaged(path: Path, expected: str, received: str) -> ValueError:
    """The error for a file that does not hold what it should."""
    return ValueError(f"file: expected {expected} in {path}, got {received}")


def read_text(path: Path) -> str:
    """The text of a file. Raises ValueError, which names it, where it cannot be read or is not UTF-8."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise damaged(path, "a file", "a folder" if path.is_dir() else "something else")
        return path.read_bytes().decode()
    except OSError as error:
        raise damaged(path, "a file that can be read", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise damaged(path, "text in UTF-8", f"other bytes: {error.reason} at {error.start}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises ValueError, which names the file, where it holds none."""
    return json_object(read_text(path), path)


def json_object(text: str, path: Path) -> dict[str, Any]:
    """The object that `text`, from `path`, is. Raises ValueError, which names the file, where it is not an object."""
    value = parse(text, path)
    if not isinstance(value, dict):
        raise damaged(path, "a JSON object", type(value).__name__)
    return value


def parse(text: str, path: Path) -> Any:
    """JSON with every key once and without NaN. Raises ValueError, which names `path`, for other text."""
    try:
        value = parse_json(text)
        if "\\u" in text:  # half of a surrogate pair cannot be encoded
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise damaged(path, "JSON", "half of a surrogate pair") from error
    except ValueError as error:
        raise damaged(path, "JSON", str(error)) from error
    return value


def check(value: Any, shape: Shape, path: Path, place: str = "") -> None:
    """Raise ValueError, which names the file and the `place` in it, where `value` does not have this shape.

    str, bool; int (of at least 0) and float (either kind of number), both bounded and finite; [shape] for a list;
    {str: shape} for an object with any keys, each a lower-case name; {"key": shape, "key?": shape} for one that must
    have the first and may have the second, and others; (shape, None) for one that may be null.
    """
    if isinstance(shape, tuple):
        if value is None:
            return
        shape = shape[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise _misfit(value, "a list", path, place)
        for index, each in enumerate(value):
            check(each, shape[0], path, f"{place}[{index}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _misfit(value, "an object", path, place)
        _check_object(value, shape, path, place)
    elif not _fits(value, shape):
        raise _misfit(value, _EXPECTED[shape], path, place)


_EXPECTED = {str: "text", bool: "true or false", int: "a count", float: "a finite number"}


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        if type(value) is float:
            return math.isfinite(value) and abs(value) <= LARGEST
        return type(value) is int and abs(value) <= LARGEST_INT
    return type(value) is kind and (kind is not int or 0 <= value <= LARGEST_INT)


def _check_object(value: dict[str, Any], shape: dict[Any, Shape], path: Path, place: str) -> None:
    for key, inner in shape.items():
        if key is str:
            for name, each in value.items():
                if not (name.isascii() and name.replace(".", "_").replace("_", "a").isalnum()):
                    raise damaged(path, f"names of letters, digits and _{_at(place)}", _short(name))
                check(each, inner, path, f"{place}.{name}" if place else name)
        elif key.removesuffix("?") in value:
            name = key.removesuffix("?")
            check(value[name], inner, path, f"{place}.{name}" if place else name)
        elif not key.endswith("?"):
            raise damaged(path, f"{key}{_at(place)}", "none")


def _misfit(value: Any, expected: str, path: Path, place: str) -> ValueError:
    return damaged(path, f"{expected}{_at(place)}", _short(value))


def _at(place: str) -> str:
    return f" for {place}" if place else ""


def _short(value: Any) -> str:
    """A value in a message, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}..."

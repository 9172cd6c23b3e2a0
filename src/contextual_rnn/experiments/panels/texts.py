"""Texts as sequences of tokens: bytes or characters. Each row of the table is one sequence."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from contextual_rnn._numbers import listed
from contextual_rnn.experiments.panels.arrow import Array, counted, decoded, is_text, value_type
from contextual_rnn.experiments.panels.columns import Columns
from contextual_rnn.experiments.panels.recognition import LOOKED_AT, check_no_numbers
from contextual_rnn.experiments.panels.source import Source
from contextual_rnn.experiments.panels.steps import Steps
from contextual_rnn.experiments.panels.values import Category

MOST_CHARACTERS = 256  # different ones; of texts with more, bytes are the tokens


def tokens_of(source: Source, columns: Columns) -> str | None:
    """bytes or characters where the target is a text whose rows are sequences, else None.

    It is where the user says so, or where a text stands without time and without other inputs.
    """
    kind = columns.kinds.get(columns.target)
    if kind is not None:
        return kind if kind in ("bytes", "characters") else None
    alone = columns.time is None and set(columns.inputs) <= {columns.target}
    if not alone or not is_text(value_type(source.types[columns.target])):
        return None
    for chunk in source.read(columns.target):
        check_no_numbers(columns.target, chunk.slice(0, LOOKED_AT).to_pylist())
        break
    return "characters"


def read_texts(source: Source, columns: Columns, kind: str) -> tuple[Category, Steps, str, dict[str, int]]:
    """The tokens of all rows, the rows as pieces, which tokens these are, and how many rows have none, by reason.

    Raises ValueError for a column that is no text, for texts without a token, and for inputs and a time, which rows
    that are sequences cannot have.
    """
    if columns.time is not None:
        raise ValueError(f"time: expected none where each row is a text of its own, got {columns.time!r}")
    if others := set(columns.inputs) - {columns.target}:
        raise ValueError(f"inputs: expected at most {columns.target} for texts, got {listed(sorted(others))}")
    lengths, tokens, missing, empty = [], [], 0, 0
    for chunk in source.read(columns.target):
        size, codes, absent = _tokens(columns.target, chunk, kind)
        lengths.append(size)
        tokens.append(codes)
        missing += absent
        empty += int((size == 0).sum()) - absent
    code_points, length = np.concatenate(tokens), np.concatenate(lengths)
    if not len(code_points):
        raise ValueError(f"{columns.target}: expected texts, got {source.rows} rows without a character")
    used = np.flatnonzero(np.bincount(code_points, minlength=256))
    if kind == "characters" and len(used) > MOST_CHARACTERS and columns.target not in columns.kinds:
        return read_texts(source, columns, "bytes")
    place = np.full(int(used[-1]) + 1, -1, np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    rows = np.flatnonzero(length)
    offsets = np.concatenate([[0], np.cumsum(length[rows])])
    steps = Steps(
        rows=np.repeat(rows, length[rows]),
        offsets=offsets,
        series=np.arange(len(rows)),
        time=counted(length[rows]),
        grid=f"1 {kind.removesuffix('s')}",
    )
    reasons = {f"{columns.target} is missing": missing, f"{columns.target} is empty": empty}
    categories: list[Hashable] = [chr(code) if kind == "characters" else int(code) for code in used]
    left_out = {reason: count for reason, count in reasons.items() if count}
    return Category(place[code_points], categories), steps, kind, left_out


def _tokens(name: str, chunk: Any, kind: str) -> tuple[Array, Array, int]:
    """The number of tokens of each text, all tokens, and how many texts are missing."""
    import pyarrow as pa

    chunk = decoded(chunk)
    if not is_text(chunk.type):
        raise ValueError(f"{name}: expected texts, got {chunk.type}")
    missing = chunk.null_count
    chunk = chunk.fill_null("").cast(pa.large_string())
    offsets = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    content = chunk.buffers()[2]
    data = np.frombuffer(content, np.uint8)[offsets[0] : offsets[-1]] if content else np.empty(0, np.uint8)
    if kind == "bytes":
        return np.diff(offsets), data, missing
    begins = (data & 0xC0) != 0x80  # the other bytes of UTF-8 continue a character
    before = np.concatenate([[0], np.cumsum(begins)])
    codes = np.frombuffer(data.tobytes().decode().encode("utf-32-le"), np.uint32)
    return np.diff(before[offsets - offsets[0]]), codes.astype(np.int32), missing

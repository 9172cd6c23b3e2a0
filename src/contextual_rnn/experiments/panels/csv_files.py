"""CSV files as one Arrow table, whatever separates their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from csv import reader as csv_reader
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.panels.arrow import check_once, first_line, value_type

DELIMITERS = ",;\t|"
DECIMAL_COMMA = r'(^|{0})"?[-+]?\d+,\d+"?({0}|$)'
LOOKED_AT = 1 << 14  # bytes after the first line
# Bytes that are parsed at once: at least those of the longest row. A block costs something for each column, so that a
# large file has few of them too.
BLOCK, LARGEST_BLOCK, BLOCKS = 1 << 26, 1 << 30, 16


def read_csv_files(files: Sequence[Path], names: Sequence[str] | None) -> Any:
    """The columns `names` of CSV files, or all, with types that hold every value; texts as codes.

    The first line names the columns and shows what separates them: a comma, semicolon, tab or bar. Numbers may have
    decimal commas where something else separates them. Raises ValueError that names the file for one that is empty, no
    UTF-8 text, or has rows of different lengths.
    """
    import pyarrow as pa

    tables = [_read_one(file, names) for file in files]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"table: expected parts with the same types, got {error}") from None


def _read_one(file: Path, names: Sequence[str] | None) -> Any:
    import pyarrow as pa
    import pyarrow.csv as csv

    first, lines = _head(file)
    unquoted = re.sub(r'"[^"]*"', "", first)
    delimiter = max(DELIMITERS, key=unquoted.count)
    number = re.compile(DECIMAL_COMMA.format(re.escape(delimiter)))
    comma = delimiter != "," and any(map(number.search, lines))
    header = next(csv_reader([first], delimiter=delimiter))
    check_once(filter(None, header), f" in {str(file)!r}")
    columns = dict.fromkeys(header)
    wanted = None if names is None else [name for name in names if name in columns]
    if "\0" in first or ("\ufffd" in first and len(wanted or ()) < len(names or ())):
        raise ValueError(
            f"table: expected a CSV file of UTF-8 text, got names of columns in other bytes in {str(file)!r}"
        )
    options = csv.ConvertOptions(
        include_columns=wanted,
        strings_can_be_null=True,
        auto_dict_encode=True,
        auto_dict_max_cardinality=1 << 24,
        decimal_point="," if comma else ".",
    )
    size = file.stat().st_size
    reading = csv.ReadOptions(block_size=min(size, max(BLOCK, size // BLOCKS), LARGEST_BLOCK))
    parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        table = csv.read_csv(file, reading, parsing, options)
    except pa.ArrowException as error:
        raise ValueError(f"table: expected a CSV file of UTF-8 text, got {str(file)!r}: {first_line(error)}") from None
    for field in table.schema:
        if pa.types.is_binary(value_type(field.type)):
            raise ValueError(f"{field.name}: expected UTF-8 text, got other bytes in {str(file)!r}")
    if wanted is not None:  # the rest has no values to read, only names to show
        read = dict(zip(table.column_names, table.columns, strict=True))
        table = pa.table(dict.fromkeys(columns, pa.nulls(len(table))) | read)
    return table


def _head(file: Path) -> tuple[str, list[str]]:
    """The first line that is not blank, and some of those after it."""
    with file.open("rb") as stream:
        first = next((line for line in stream if line.strip()), None)
        if first is None:
            raise ValueError(f"table: expected a first line that names the columns, got the empty file {str(file)!r}")
        lines = stream.read(LOOKED_AT).decode(errors="replace").splitlines()
    one, *more = first.decode("utf-8-sig", errors="replace").splitlines()  # "\r" alone may end a line
    return one, [*more, *lines]

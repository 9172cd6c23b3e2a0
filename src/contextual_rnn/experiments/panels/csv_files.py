"""CSV files as one Arrow table, whatever separates their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from csv import reader as csv_reader
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.panels.arrow import (
    AsWritten,
    can_cast,
    check_once,
    compute,
    first_line,
    is_text,
    value_type,
)

DELIMITERS = ",;\t|"
DECIMAL_COMMA = r'(^|{0})"?[-+]?\d+,\d+"?({0}|$)'
LOOKED_AT = 1 << 14  # bytes after the first line
# Bytes that are parsed at once: at least those of the longest row. A block costs something for each column, so that a
# large file has few of them too.
BLOCK, LARGEST_BLOCK, BLOCKS = 1 << 26, 1 << 30, 16


def read_csv_files(files: Sequence[Path], names: Sequence[str] | None, as_written: AsWritten) -> Any:
    """The columns `names` of CSV files, or all, with types that hold every value; texts as codes.

    Those of `as_written` are texts, so that 001 and 1 differ; names are whole numbers where all are written as such.
    The first line names the columns and shows what separates them: a comma, semicolon, tab or bar. Numbers may have
    decimal commas where something else separates them. Raises ValueError that names the file for one that is empty, no
    UTF-8 text, or has rows of different lengths.
    """
    import pyarrow as pa

    tables = [_read_one(file, names, as_written) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"table: expected parts with the same types, got {error}") from None
    for name, missing in as_written.items():
        if missing is not None and name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, _whole_numbers(table.column(name)))
    return table


def _read_one(file: Path, names: Sequence[str] | None, as_written: AsWritten) -> Any:
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
        column_types={name: pa.dictionary(pa.int32(), pa.string()) for name in as_written if name in columns},
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
        if column := re.search(r"CSV column #(\d+): .*UTF8", str(error)):
            raise ValueError(_not_text(header[int(column[1])], file)) from None
        raise ValueError(f"table: expected a CSV file of UTF-8 text, got {str(file)!r}: {first_line(error)}") from None
    for field in table.schema:
        if pa.types.is_binary(value_type(field.type)):
            raise ValueError(_not_text(field.name, file))
    missing = {name: as_written.get(name) or options.null_values for name in table.column_names}
    parts = [
        [_with_missing(chunk, missing[name]) for chunk in table.column(name).chunks] for name in table.column_names
    ]
    table = pa.table(
        [pa.chunked_array(*part) for part in zip(parts, table.schema.types, strict=True)], table.column_names
    )
    if wanted is not None:  # the rest has no values to read, only names to show
        read = dict(zip(table.column_names, table.columns, strict=True))
        table = pa.table(dict.fromkeys(columns, pa.nulls(len(table))) | read)
    return table


def _not_text(name: str, file: Path) -> str:
    return f"{name}: expected UTF-8 text, got other bytes in {str(file)!r}"


def _with_missing(chunk: Any, missing: Sequence[str]) -> Any:
    """Values, of which the texts `missing` are so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not is_text(value_type(chunk.type)):
        return chunk
    coded = pa.types.is_dictionary(chunk.type)
    texts = chunk.dictionary if coded else chunk
    absent = pc.call_function("is_in", [texts], pc.SetLookupOptions(pa.array(missing, texts.type)))
    if not coded:
        return compute("if_else", absent, pa.scalar(None, chunk.type), chunk)
    codes = compute("if_else", absent.take(chunk.indices), pa.scalar(None, chunk.indices.type), chunk.indices)
    return pa.DictionaryArray.from_arrays(codes, texts)


def _whole_numbers(column: Any) -> Any:
    """A column of names as whole numbers where that changes none of them, else as it is."""
    import pyarrow as pa

    column = column.unify_dictionaries()
    if not column.num_chunks or not pa.types.is_dictionary(column.type):
        return column
    texts = column.chunk(0).dictionary
    texts = compute("if_else", compute("equal", texts, pa.scalar("")), pa.scalar(None, texts.type), texts)
    if not can_cast(texts, pa.int64()) or not (numbers := texts.cast(pa.int64())).cast(texts.type).equals(texts):
        return column
    return pa.chunked_array([numbers.take(chunk.indices) for chunk in column.chunks])


def _head(file: Path) -> tuple[str, list[str]]:
    """The first line that is not blank, and some of those after it."""
    with file.open("rb") as stream:
        first = next((line for line in stream if line.strip()), None)
        if first is None:
            raise ValueError(f"table: expected a first line that names the columns, got the empty file {str(file)!r}")
        lines = stream.read(LOOKED_AT).decode(errors="replace").splitlines()
    one, *more = first.decode("utf-8-sig", errors="replace").splitlines()  # "\r" alone may end a line
    return one, [*more, *lines]

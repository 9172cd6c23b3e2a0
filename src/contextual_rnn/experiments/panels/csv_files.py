"""CSV files as one Arrow table, whatever separates their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from csv import reader as csv_reader
from pathlib import Path
from typing import Any

DELIMITERS = ",;\t|"
DECIMAL_COMMA = re.compile(r"(^|;)-?\d+,\d+(;|$)")


def read_csv_files(files: Sequence[Path], names: Sequence[str] | None) -> Any:
    """The columns `names` of CSV files, or all, with types that hold every value; texts as codes.

    The first line names the columns and shows what separates them: a comma, semicolon, tab or bar. Numbers have decimal
    commas where semicolons separate them. Raises ValueError that names the file for one that is empty, no UTF-8 text,
    or has rows of different lengths.
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

    with file.open("rb") as stream:
        head = stream.read(1 << 14).decode(errors="replace").lstrip("\ufeff").splitlines()
    if not head:
        raise ValueError(f"table: expected a first line that names the columns, got the empty file {str(file)!r}")
    delimiter = max(DELIMITERS, key=head[0].count)
    comma = delimiter == ";" and any(DECIMAL_COMMA.search(line) for line in head[1:])
    header = next(csv_reader(head[:1], delimiter=delimiter))
    if double := [name for name in header if header.count(name) > 1 and name]:
        raise ValueError(f"table: expected each column once, got {double[0]!r} twice in {str(file)!r}")
    wanted = None if names is None else [name for name in names if name in header]
    options = csv.ConvertOptions(
        include_columns=wanted,
        strings_can_be_null=True,
        auto_dict_encode=True,
        auto_dict_max_cardinality=1 << 24,
        decimal_point="," if comma else ".",
    )
    try:
        table = csv.read_csv(file, parse_options=csv.ParseOptions(delimiter=delimiter), convert_options=options)
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"table: expected a CSV file of UTF-8 text, got {str(file)!r}: {reason}") from None
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_binary(kind):
            raise ValueError(f"{field.name}: expected UTF-8 text, got other bytes in {str(file)!r}")
    if wanted is not None:  # the rest has no values to read, only names to show
        for name in dict.fromkeys(header):
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table)))
    return table

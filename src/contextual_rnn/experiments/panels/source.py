"""Where a table is read from: files, folders of parts, data frames. Columns are read one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextual_rnn._numbers import shortened
from contextual_rnn.experiments.panels.arrow import (
    AsWritten,
    check_once,
    compute,
    first_line,
    is_number_type,
    is_text,
    readable,
    require_pyarrow,
)

ENDINGS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}


@dataclass(frozen=True)
class Source:
    """A table of `rows` rows. `types` are Arrow's; `read(name)` yields a column in pieces that are Arrow arrays.

    Both are plain: texts are strings or large strings, dictionaries hold texts or numbers, decimals are floats.
    """

    name: str
    rows: int
    types: dict[str, Any]
    read: Callable[[str], Iterator[Any]]


def open_table(table: Any, names: Sequence[str] | None = None, as_written: AsWritten | None = None) -> Source:
    """The source of a path, several paths, a folder, or a table in memory; of a CSV file only the columns `names`.

    Where a file has no types, as CSV files and the names of folders have none, columns `as_written` are texts. Raises
    ImportError without pyarrow, TypeError for anything that is no table, ValueError for files that are missing,
    damaged, of several kinds or of an unknown one.
    """
    require_pyarrow()
    if (paths := paths_of(table)) is None:
        return _plain_source(_open_memory(table, names))
    files = [file for path in paths for file in _files_of(path)]
    name = f"{files[0]} and {len(files) - 1} more" if len(paths) > 1 else str(paths[0])
    return _plain_source(_open_files(files, names, as_written or {}, name))


def paths_of(table: Any) -> list[Path] | None:
    """The paths of a table's files and folders; None for a table in memory."""
    paths = table if isinstance(table, list | tuple) else [table]
    return list(map(Path, paths)) if paths and all(isinstance(path, str | os.PathLike) for path in paths) else None


def _plain_source(source: Source) -> Source:
    def read(name: str) -> Iterator[Any]:
        with readable(name):
            for chunk in source.read(name):
                yield _plain(chunk)

    return Source(source.name, source.rows, {name: _plain_type(kind) for name, kind in source.types.items()}, read)


def _plain_type(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_run_end_encoded(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_dictionary(kind):
        value = _plain_type(kind.value_type)
        return pa.dictionary(pa.int32(), value) if is_text(value) or is_number_type(value) else value
    if pa.types.is_decimal(kind):
        return pa.float64()
    return pa.large_string() if kind == pa.string_view() else kind


def _plain(chunk: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_run_end_encoded(chunk.type):
        chunk = compute("run_end_decode", chunk)
    kind = _plain_type(chunk.type)
    if kind == chunk.type:
        return chunk
    if pa.types.is_dictionary(chunk.type):
        values = _plain(chunk.dictionary)
        encoded = pa.types.is_dictionary(kind)
        codes = chunk.indices.cast(pa.int32())  # shorter ones hold those of one part, not of all
        return pa.DictionaryArray.from_arrays(codes, values) if encoded else values.take(codes)
    return chunk.cast(kind)


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"table: expected a file or folder, got {str(path)!r}, which does not exist")
    if path.is_file():
        return [path]
    parts = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(("_", "."))]
    files = [file for file in parts if file.suffix.lower() in ENDINGS]
    if not files:
        raise ValueError(f"table: expected parts that end in {', '.join(ENDINGS)} in {str(path)!r}, got none")
    return files


def _open_files(files: list[Path], names: Sequence[str] | None, as_written: AsWritten, name: str) -> Source:
    kinds = {ENDINGS.get(file.suffix.lower()) for file in files}
    if kinds - {"csv", "parquet"} or len(kinds) > 1:
        endings = ", ".join(sorted({file.suffix or "none" for file in files}))
        raise ValueError(f"table: expected files of one kind that end in {', '.join(ENDINGS)}, got endings {endings}")
    if kinds == {"csv"}:
        from contextual_rnn.experiments.panels.csv_files import read_csv_files

        return _from_arrow(read_csv_files(files, names, as_written), name)
    from contextual_rnn.experiments.panels.parquet_files import read_parquet_files

    return Source(name, *read_parquet_files(files, names, as_written, name))


def _open_memory(table: Any, names: Sequence[str] | None) -> Source:
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return _from_arrow(table, "a table")
    if type(table).__module__.partition(".")[0] == "pandas":
        return _from_arrow(_from_pandas(table, names), "a data frame")
    try:
        if hasattr(table, "__arrow_c_stream__"):
            return _from_arrow(pa.table(table), "a table")
        if hasattr(table, "__dataframe__"):
            import pyarrow.interchange

            return _from_arrow(pyarrow.interchange.from_dataframe(table), "a data frame")
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"table: expected columns that Arrow reads, got {first_line(error)}") from None
    raise TypeError(f"table: expected a path, paths, or a data frame, got {shortened(table)}")


def _from_pandas(frame: Any, names: Sequence[str] | None) -> Any:
    """A table of a frame of pandas; levels of its index whose names are asked for become columns."""
    import pyarrow as pa

    if not hasattr(frame, "columns"):
        raise TypeError(f"table: expected a data frame, got a {type(frame).__name__}")
    check_once(map(str, frame.columns))
    of_texts = {str(name): name for name in frame.columns}
    levels = [level for level in frame.index.names if level is not None and str(level) not in of_texts]
    series = {str(level): frame.index.get_level_values(level).to_series() for level in levels}
    series |= {text: frame[name] for text, name in of_texts.items()}
    wanted = list(of_texts) if names is None else [name for name in names if name in series]
    columns = {name: _from_series(name, series[name]) for name in wanted}
    # The rest has no values to read, only names to show.
    return pa.table(columns | {name: pa.nulls(len(frame)) for name in of_texts if name not in columns})


def _from_series(name: str, values: Any) -> Any:
    import pyarrow as pa

    try:
        column = pa.Array.from_pandas(values)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"{name}: expected values of one type, got {first_line(error)}") from None
    if pa.types.is_timestamp(column.type) and values.dtype == object:  # Arrow takes times without a zone for UTC
        zoned = {getattr(value, "tzinfo", None) is not None for value in values[values.notna()]}
        if len(zoned) > 1:
            raise ValueError(f"{name}: expected times that all have a zone or all have none, got some of each")
    return column


def _from_arrow(table: Any, name: str) -> Source:
    check_once(table.column_names)
    types = {field.name: field.type for field in table.schema}
    return Source(name, table.num_rows, types, lambda column: iter(table.column(column).chunks))

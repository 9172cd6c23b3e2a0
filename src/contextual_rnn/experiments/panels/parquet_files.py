"""Parquet files as one table: their columns may differ in type and be missing in some."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.panels.arrow import AsWritten, check_once, first_line, value_type

READ_ROWS = 1 << 18  # of a column at a time
VALUES = 1 << 22  # of several short columns at a time: each reading looks at the names of all columns of every file


def read_parquet_files(
    files: Sequence[Path], names: Sequence[str] | None, as_written: AsWritten, name: str
) -> tuple[int, dict[str, Any], Callable[[str], Iterator[Any]]]:
    """`rows`, `types` and `read` of a `Source`: texts are codes; partitions that folders name are columns too.

    A partition is such as year=2020; one of `as_written` is text where whole numbers would be written otherwise, such
    as part=01. A column has a type that holds the values of every file, and is missing in the
    rows of a file without it. Raises ValueError that names the file or the column for files that are damaged, a name
    twice, and types that do not go together: numbers and texts, times with a zone and without.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    paths = [str(file) for file in files]
    try:
        schema = _common_schema(paths, names)
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        codes = pa.dictionary(pa.int32(), pa.string())
        fields = {field.name: field.with_type(codes) if field.name in texts else field for field in schema}
        fields = {field.name: field for field in _partitions(paths, as_written)} | fields
        options = ds.ParquetFileFormat(ds.ParquetReadOptions(dictionary_columns=texts))
        data: Any = ds.dataset(paths, format=options, partitioning="hive", schema=pa.schema(list(fields.values())))
        types = {field.name: field.type for field in data.schema}
        rows = data.count_rows()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"table: expected Parquet files, got {name!r}: {first_line(error)}") from None

    wanted = list(types) if names is None else [name for name in names if name in types]
    place, together = {column: index for index, column in enumerate(wanted)}, max(VALUES // max(rows, 1), 1)

    def scan(columns: list[str]) -> Iterator[Any]:
        # Little is read ahead: what waits in memory is read once more than it must be.
        return data.scanner(columns=columns, batch_size=READ_ROWS, batch_readahead=2, fragment_readahead=1).to_batches()

    @functools.lru_cache(maxsize=1)
    def several(group: int) -> list[Any]:
        return list(scan(wanted[group * together : (group + 1) * together]))

    def batches(column: str) -> Iterable[Any]:
        if together > 1:
            with contextlib.suppress(pa.ArrowException, OSError):  # read alone, it is known which column it is
                return several(place[column] // together)
        return scan([column])

    def read(column: str) -> Iterator[Any]:
        try:
            for batch in batches(column):
                yield batch.column(column)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{column}: expected values of type {types[column]}, got {first_line(error)}") from None

    return rows, types, read


def _common_schema(paths: Sequence[str], names: Sequence[str] | None) -> Any:
    """A schema that holds the values of every file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(path) for path in paths]
    for path, schema in zip(paths, schemas, strict=True):
        check_once(schema.names, f" in {path!r}")
    if all(schema.equals(schemas[0]) for schema in schemas):
        return schemas[0]
    fields: dict[str, Any] = {}
    for path, schema in zip(paths, schemas, strict=True):
        for field in schema:
            before = fields.setdefault(field.name, field)
            if before.type == field.type or not (names is None or field.name in names):
                continue
            try:
                (fields[field.name],) = pa.unify_schemas(
                    [pa.schema([_plain(each, like=before)]) for each in (before, field)], promote_options="permissive"
                )
            except pa.ArrowException:
                raise ValueError(
                    f"{field.name}: expected values of one type in all parts, got {before.type} before and "
                    f"{field.type} in {path!r}"
                ) from None
    return pa.schema(list(fields.values()))


def _partitions(paths: Sequence[str], as_written: AsWritten) -> Iterator[Any]:
    """The columns that the names of folders hold, with types for the values of all of them."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    options = ds.FileSystemFactoryOptions(partitioning=ds.HivePartitioning.discover())
    factory = ds.FileSystemDatasetFactory(LocalFileSystem(), paths, ds.ParquetFileFormat(), options)
    for field in factory.inspect_schemas()[-1]:
        values = {
            part.partition("=")[2] for path in paths for part in Path(path).parts if part.startswith(f"{field.name}=")
        }
        changed = pa.types.is_integer(field.type) and any(
            value.isdigit() and value != str(int(value)) for value in values
        )
        yield field.with_type(pa.string()) if changed and field.name in as_written else field


def _plain(field: Any, like: Any) -> Any:
    """A field without its dictionary or views of texts.

    Times with a zone are instants, which the zone of another part shows as well.
    """
    import pyarrow as pa

    kind = value_type(field.type)
    if kind == pa.string_view():
        kind = pa.large_string()
    if pa.types.is_timestamp(kind) and kind.tz and pa.types.is_timestamp(like.type) and like.type.tz:
        kind = pa.timestamp(kind.unit, like.type.tz)
    return pa.field(field.name, kind)

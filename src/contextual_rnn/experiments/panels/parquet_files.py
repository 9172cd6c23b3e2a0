"""Parquet files as one table: their columns may differ in type and be missing in some."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.panels.arrow import check_once, first_line, value_type

READ_ROWS = 1 << 18  # of a column at a time


def read_parquet_files(
    files: Sequence[Path], names: Sequence[str] | None, name: str
) -> tuple[int, dict[str, Any], Callable[[str], Iterator[Any]]]:
    """`rows`, `types` and `read` of a `Source`: texts are codes; partitions that folders name are columns too.

    A partition is such as year=2020. A column has a type that holds the values of every file, and is missing in the
    rows of a file without it. Raises ValueError that names the file or the column for files that are damaged, a name
    twice, and types that do not go together: numbers and texts, times with a zone and without.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    paths = [str(file) for file in files]
    try:
        schema = _common_schema(paths, names)
        plain = ds.dataset(paths, format="parquet", partitioning="hive", schema=schema)
        if schema is not None:
            inferred = ds.dataset(paths[:1], format="parquet", partitioning="hive").schema
            for field in inferred:  # partitions
                schema = schema if field.name in schema.names else schema.append(field)
        texts = [field.name for field in plain.schema if pa.types.is_string(field.type)]
        if schema is not None:
            codes = pa.dictionary(pa.int32(), pa.string())
            schema = pa.schema([field.with_type(codes) if field.name in texts else field for field in schema])
        options = ds.ParquetFileFormat(ds.ParquetReadOptions(dictionary_columns=texts))
        data: Any = ds.dataset(paths, format=options, partitioning="hive", schema=schema)
        types = {field.name: field.type for field in data.schema}
        rows = data.count_rows()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"table: expected Parquet files, got {name!r}: {first_line(error)}") from None

    def read(column: str) -> Iterator[Any]:
        # Little is read ahead: what waits in memory is read once more than it must be.
        scan = data.scanner(columns=[column], batch_size=READ_ROWS, batch_readahead=2, fragment_readahead=1)
        try:
            for batch in scan.to_batches():
                yield batch.column(0)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{column}: expected values of type {types[column]}, got {first_line(error)}") from None

    return rows, types, read


def _common_schema(paths: Sequence[str], names: Sequence[str] | None) -> Any:
    """A schema that holds the values of every file; None where all have the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(path) for path in paths]
    for path, schema in zip(paths, schemas, strict=True):
        check_once(schema.names, f" in {path!r}")
    if all(schema.equals(schemas[0]) for schema in schemas):
        return None
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


def _plain(field: Any, like: Any) -> Any:
    """A field without its dictionary; times with a zone are instants, which the zone of another part shows as well."""
    import pyarrow as pa

    kind = value_type(field.type)
    if pa.types.is_timestamp(kind) and kind.tz and pa.types.is_timestamp(like.type) and like.type.tz:
        kind = pa.timestamp(kind.unit, like.type.tz)
    return pa.field(field.name, kind)

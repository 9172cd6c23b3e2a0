"""Memory and time of a large table of sequences: read, split, cut into batches.

python -m benchmarks.tables    ten million rows as Parquet in and out of order, and as CSV; 1.5 GB of temporary files
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import machine
from benchmarks.parts import Figure, conclude
from contextual_rnn.experiments.panels import Columns, Split, prepare, read_panel

DAYS, BASINS_AT_ONCE, MOST_GIGABYTES = 1000, 500, 4.0
COLUMNS = Columns(
    target="discharge",
    series="basin",
    time="day",
    inputs=("rain", "temperature"),
    context=("soil", "area"),
    window=30,
)


@dataclass(frozen=True)
class Benchmark:
    """How large a table of sequences can be: the memory of a process of its own."""

    rows: int = 10_000_000
    out: Path = Path("results/benchmarks")


def write_tables(folder: Path, rows: int) -> list[Path]:
    """The same rows by basin and day, by day and basin, and as CSV."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    paths = [folder / name for name in ("sorted.parquet", "by day.parquet", "sorted.csv")]
    basins, generator = rows // DAYS, np.random.default_rng(0)
    parquet = text = None
    for first in range(0, basins, BASINS_AT_ONCE):
        count = min(BASINS_AT_ONCE, basins - first)
        basin = [f"basin {number:06d}" for number in range(first, first + count)]
        soil, area = generator.choice(["clay", "sand", "loam"], count), generator.normal(size=count)
        table = pa.table(
            {
                "basin": np.repeat(basin, DAYS),
                "day": np.tile(np.datetime64("2000-01-01") + np.arange(DAYS), count),
                "soil": np.repeat(soil, DAYS),
                "area": np.repeat(area, DAYS),
                **{name: generator.normal(size=count * DAYS) for name in ("rain", "temperature", "discharge")},
            }
        )
        parquet = parquet or pq.ParquetWriter(paths[0], table.schema)
        parquet.write_table(table)
        text = text or csv.CSVWriter(paths[2], table.schema)
        text.write_table(table)
    for writer in (parquet, text):
        if writer is not None:
            writer.close()
    whole = pq.read_table(paths[0])
    order = np.arange(len(whole)).reshape(basins, DAYS).T.reshape(-1)
    with pq.ParquetWriter(paths[1], whole.schema) as writer:
        for first in range(0, len(order), 1_000_000):
            writer.write_table(whole.take(pa.array(order[first : first + 1_000_000])))
    return paths


def measure(path: Path) -> dict[str, float]:
    """Gigabytes that this process had at most, and seconds to read, to prepare, and for a batch of 128."""
    start = time.perf_counter()
    panel = read_panel(path, COLUMNS)
    read = time.perf_counter()
    data = prepare(panel, Split(), length=100)
    prepared = time.perf_counter()
    generator = np.random.default_rng(0)
    for _ in range(20):
        data.batch(data.train[generator.integers(len(data.train), size=128)])
    seconds = {"read": read - start, "prepare": prepared - read, "batch": (time.perf_counter() - prepared) / 20}
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"gigabytes": kilobytes * 1024 / 1e9, **seconds}


def run(options: Benchmark) -> dict[str, Any]:
    """Measure, print and write; returns what is written to tables.json."""
    report: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.tables", *sys.argv[1:]]),
        "machine": machine.describe(),
        "rows": options.rows,
        "measured": {},
    }
    spawn, rows = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            paths = pool.submit(write_tables, Path(folder), options.rows).result()
        for path in paths:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                measured = pool.submit(measure, path).result()
            report["measured"][path.name] = measured
            note = ", ".join(f"{name} {measured[name]:.3g} s" for name in ("read", "prepare", "batch"))
            name = f"{options.rows:,} rows, {path.name}: gigabytes of memory"
            rows.append(Figure(name, measured["gigabytes"], "at most", MOST_GIGABYTES, note))
    report["figures"] = [row.summary() for row in rows]
    conclude(options.out / "tables.json", report, rows)
    return report


if __name__ == "__main__":
    run(tyro.cli(Benchmark))

"""Small tables of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from contextual_rnn.experiments.panels import Columns

SERIES, STEPS = 10, 12
COLUMNS = Columns(
    target="discharge",
    series="basin",
    time="day",
    inputs=("rain", "weather"),
    context=("soil", "area", "uses"),
    window=3,
)


def flows(series: int = SERIES, steps: int = STEPS, **columns: Any) -> pa.Table:
    """A table of every kind of column, sorted; `columns` replace some, None removes one."""
    generator = np.random.default_rng(0)
    rows = series * steps

    def each(values: list[Any]) -> list[Any]:
        return [values[row // steps % len(values)] for row in range(rows)]

    table: dict[str, Any] = {
        "basin": [f"basin {row // steps}" for row in range(rows)],
        "day": np.tile(np.datetime64("2020-02-25") + np.arange(steps), series),
        "rain": generator.normal(size=rows),
        "weather": generator.choice(["sun", "fog", "hail"], rows).tolist(),
        "soil": each(["clay", "sand", "loam"]),
        "area": each([1.5, 3.25, 2.0, 7.5]),
        "uses": each([["farm", "town"], [], ["farm"]]),
        "discharge": generator.normal(size=rows) + 3,
    }
    table |= columns
    return pa.table({name: values for name, values in table.items() if values is not None})

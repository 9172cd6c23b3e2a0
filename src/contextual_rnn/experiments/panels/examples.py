"""Tables of real data that ship inside installed packages, with their columns."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.panels.arrow import require_pyarrow
from contextual_rnn.experiments.panels.columns import Columns

DEMO = "colors"


def example_table(name: str) -> tuple[Any, Columns]:
    """An Arrow table of real data and what its columns mean: "colors", "countries" or "vowels".

    Nothing is downloaded. Raises ValueError for another name, ImportError that says what to install where the package
    with the data is missing.
    """
    if not isinstance(name, str) or name not in EXAMPLES:
        raise ValueError(f"name: expected one of {', '.join(EXAMPLES)}, got {name!r}")
    table, columns = EXAMPLES[name]()
    return require_pyarrow().table(table), columns


def colors() -> tuple[dict[str, list[Any]], Columns]:
    """Names of 949 colours, letter by letter, from red, green and blue (0 to 255).

    From the survey of xkcd (2010, https://xkcd.com/color/rgb), in the public domain (CC0), inside matplotlib.
    """
    from matplotlib.colors import XKCD_COLORS, to_rgb

    names = sorted(name.removeprefix("xkcd:") for name in XKCD_COLORS)
    table: dict[str, list[Any]] = {"name": names}
    for place, part in enumerate(("red", "green", "blue")):
        table[part] = [round(255 * to_rgb(f"xkcd:{name}")[place]) for name in names]
    return table, Columns(target="name", context=("red", "green", "blue"), kinds={"name": "characters"})


def countries() -> tuple[dict[str, list[Any]], Columns]:
    """Life expectancy in 142 countries, every five years from 1952 to 2007, from wealth and population.

    `log_gdp` and `log_population` are logarithms to base 10 of the gross domestic product per head and of the
    population. From Gapminder (https://www.gapminder.org/data, CC BY 4.0), inside plotly (MIT).
    """
    path = _inside("plotly", "package_data/datasets/gapminder.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = {
        "country": [row["country"] for row in rows],
        "continent": [row["continent"] for row in rows],
        "year": [int(row["year"]) for row in rows],
        "life_expectancy": [float(row["lifeExp"]) for row in rows],
        "log_gdp": [math.log10(float(row["gdpPercap"])) for row in rows],
        "log_population": [math.log10(float(row["pop"])) for row in rows],
    }
    columns = Columns(
        target="life_expectancy",
        series="country",
        time="year",
        inputs=("log_gdp", "log_population"),
        context=("continent",),
        window=3,
    )
    return table, columns


def vowels() -> tuple[dict[str, list[Any]], Columns]:
    """Which of nine speakers says two vowels: 640 utterances of 7 to 29 frames, 12 coefficients a frame.

    Japanese Vowels (Kudo, Toyama and Shimbo, 1999, https://doi.org/10.24432/C5NS47, CC BY 4.0), inside aeon (BSD).
    """
    table: dict[str, list[Any]] = {"utterance": [], "frame": [], "speaker": []}
    coefficients = [f"c{place}" for place in range(1, 13)]
    table |= {name: [] for name in coefficients}
    utterance = 0
    for part in ("TRAIN", "TEST"):
        path = _inside("aeon", f"datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts")
        _, _, data = path.read_text(encoding="utf-8").partition("\n@data\n")
        for line in data.splitlines():
            *channels, speaker = line.strip().split(":")
            values = [[float(value) for value in channel.split(",")] for channel in channels]
            frames = len(values[0])
            table["utterance"] += [utterance] * frames
            table["frame"] += range(frames)
            table["speaker"] += [f"speaker {speaker}"] * frames
            for name, channel in zip(coefficients, values, strict=True):
                table[name] += channel
            utterance += 1
    inputs = tuple(coefficients)
    return table, Columns(target="speaker", series="utterance", time="frame", inputs=inputs, window=3)


EXAMPLES: dict[str, Callable[[], tuple[dict[str, list[Any]], Columns]]] = {
    "colors": colors,
    "countries": countries,
    "vowels": vowels,
}


def _inside(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed, whose data this is: pip install --no-deps {package}")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.exists():
        raise ImportError(f"{package}: expected its file {path}, got a version without it: pip install -U {package}")
    return file

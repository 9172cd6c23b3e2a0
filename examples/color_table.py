"""The table of colors.py: named colours as matplotlib ships them, a row for every name in each of two lists."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.colors import CSS4_COLORS, XKCD_COLORS, to_rgb
from torch import Tensor

LETTERS = "\n abcdefghijklmnopqrstuvwxyz'/"  # the first one begins and ends a name, and pads
WIDTH = 28  # of the longest name with both
CRUDE = ("barf", "bile", "booger", "piss", "poo", "puke", "shit", "snot", "vomit")  # not for a gallery

Row = dict[str, Any]


def table() -> list[Row]:
    lists = {"css4": CSS4_COLORS, "xkcd": {name.removeprefix("xkcd:"): value for name, value in XKCD_COLORS.items()}}
    rows = []
    for colors in lists.values():
        for name, value in colors.items():
            if any(word in name for word in CRUDE) or (colors is CSS4_COLORS and "grey" in name):  # twins of gray
                continue
            row = dict(zip(("red", "green", "blue"), to_rgb(value), strict=True))
            row |= {"words": len(name.split()), "lists": [key for key, names in lists.items() if name in names]}
            rows.append(row | {"name": name})
    return rows


def columns(rows: Sequence[Row], **instead: Any) -> dict[str, list[Any]]:
    """What `ContextNet.encode` takes; `instead` puts one value in place of a whole column."""
    return {key: [instead.get(key, row[key]) for row in rows] for key in rows[0] if key != "name"}


def letters(rows: Sequence[Row]) -> Tensor:
    """Names as (rows, WIDTH) letters, each begun and ended by the first letter, and padded with it."""
    return torch.tensor([[LETTERS.index(letter) for letter in f"\n{row['name']}".ljust(WIDTH, "\n")] for row in rows])

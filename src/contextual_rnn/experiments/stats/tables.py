"""Tables as data and in Markdown, and pages that are filled between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows below a header; the first `texts` columns are words, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


def markdown(table: Table) -> str:
    """The table in Markdown, without its title."""
    rows = (table.header, ["---"] * len(table.header), *table.rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fill(page: str, begin: str, end: str, text: str) -> str:
    """`page` with `text` between the marks `begin` and `end`. Raises ValueError where it does not have them."""
    before, first, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise ValueError(f"page: expected {begin} and {end}, got a page without")
    return f"{before}{first}{text}{last}{after}"

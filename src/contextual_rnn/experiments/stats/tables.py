"""A table as data, and in Markdown."""

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

"""Findings that are known and not yet mended; the list is to become empty."""

from __future__ import annotations

from tests.fuzz.outcome import Outcome

# Of the short setting of the tests: what is called, and what is wrong there.
KNOWN: set[tuple[str, str]] = set()


def is_known(outcome: Outcome) -> bool:
    """Whether the name and what went wrong are listed."""
    return (outcome.name, outcome.error) in KNOWN

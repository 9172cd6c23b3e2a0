"""What a command that reads many files says of those that are damaged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextual_rnn.experiments.runs.store import Place


class LeftOut:
    """Says on standard error, when a command ends, which damaged files were left out, and how many."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}
        self._folder, self._place = "", ""

    def copy_of(self, place: Place, folder: Path) -> None:
        """Errors that name `folder` are about `place`, of which it is a copy."""
        self._folder, self._place = str(folder), str(place)

    def __call__(self, error: Exception) -> None:
        text = str(error)
        self._messages[text.replace(self._folder, self._place) if self._folder else text] = None

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for text in self._messages:
            print(f"contextual-rnn: left out: {text}", file=sys.stderr)
        if self._messages:
            print(f"contextual-rnn: left out: {len(self._messages)} in all", file=sys.stderr)

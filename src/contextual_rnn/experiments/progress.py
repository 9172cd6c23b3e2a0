"""A bar of progress on a terminal; elsewhere, as in a file or a pipe, a line every ten seconds."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SECONDS = 10


class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument] # at run time it takes none
    """tqdm's bar, on standard error."""

    def __init__(self, **options: Any):
        self.on_terminal = sys.stderr.isatty()
        # Without a terminal the first line waits too: what takes no longer than that needs none.
        lines: dict[str, Any] = {} if self.on_terminal else {"mininterval": SECONDS, "delay": SECONDS, "miniters": 0}
        super().__init__(**options, **lines)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.on_terminal:
            super().display(msg, pos)
        else:
            print(self, file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self.on_terminal:
            self.sp = None  # as tqdm's own bars in windows: no line has to be cleared
        super().close()

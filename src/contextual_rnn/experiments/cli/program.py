"""The name of the command, as the user can type it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

NAME = "contextual-rnn"


def program() -> str:
    """`contextual-rnn` where the shell finds it, else the path by which it was started, as `make` does."""
    started = Path(sys.argv[0])
    return str(started) if started.stem == NAME and not shutil.which(NAME) else NAME

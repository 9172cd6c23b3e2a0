"""Ctrl-C and SIGTERM while the command imports PyTorch, which takes seconds: one line, and no traceback.

The package imports this module first. It does nothing in any process but the command `contextual-rnn`, where
`experiments.interrupts` replaces its handler once it is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MODULE = "contextual_rnn.experiments"
LINE = "contextual-rnn: interrupted {}; the same command goes on"


def is_command() -> bool:
    """Whether this process was started as `contextual-rnn` or as `python -m contextual_rnn.experiments`."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # what Python puts there while it looks for the module
        return MODULE in sys.orig_argv
    return os.path.basename(program).removesuffix(".exe").removesuffix("-script.py") == "contextual-rnn"


def follows() -> bool:
    """Whether this is not the first process of a torchrun group; the first alone prints."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def handle(handler: Any) -> None:
    """Install `handler` for both signals; one that is ignored, as under nohup, stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


def _end(number: int, frame: object) -> None:
    if not follows():
        os.write(2, (LINE.format("before it began") + "\n").encode())
    os._exit(128 + number)


if is_command():
    handle(_end)

"""Ctrl-C and SIGTERM: a command ends within seconds, with one line that says what is done.

The first signal raises `Interrupted` in the main thread. Within `deferred` it is only noted: training asks `requested`
between two steps, writes a checkpoint, and raises it itself. A thread of its own ends the process at once on a second
signal, and where stopping takes longer than LIMIT_SECONDS, also while the main thread is inside native code. Nothing is
lost by that: files are there whole or not at all, and the same command goes on from its last checkpoint.

Nothing here changes a process in which `install` was not called: there Ctrl-C raises KeyboardInterrupt as ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Literal, NoReturn

from contextual_rnn._command_start import LINE, SIGNALS, follows, handle

LIMIT_SECONDS = 3.5
# `timeout` and torchrun send a signal to a process that has got it from the terminal already: that is no second Ctrl-C.
REPEAT_SECONDS = 2.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.1
PRINT_SECONDS = 0.5  # a terminal or pipe that takes no more text holds up no end

# What a signal does: end the process at once, raise `Interrupted` in the main thread, or be noted for `requested`.
_Mode = Literal["end", "raise", "defer"]


class Interrupted(KeyboardInterrupt):
    """A command was asked to stop, by Ctrl-C or SIGTERM."""


_mode: _Mode = "end"
_received: int | None = None  # the first signal
_raised = False
_done = "before it began"
_silent = False
_printing = threading.Lock()
_printed = False


def install(*, worker: bool = False) -> None:
    """Handle SIGINT and SIGTERM from now on; call it in the main thread of a process that is ours.

    A worker prints nothing, and for it a signal that is repeated is one: its parent passes on what the terminal sends
    to both. A signal that is ignored, as under nohup, stays ignored.
    """
    global _silent
    _silent = worker or follows()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(receiver, worker), name="interrupts", daemon=True).start()
    handle(_handle)
    sys.unraisablehook = _swallowed


def requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _received is not None


def describe(done: str) -> None:
    """Say what is done, such as "at step 3 of 9", for the line that is printed when the command is interrupted."""
    global _done
    _done = done


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """A signal raises `Interrupted` in the main thread meanwhile."""
    with _in_mode("raise"):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A signal is noted meanwhile, and raises `Interrupted` at the end at the latest."""
    with _in_mode("defer"):
        yield


@contextlib.contextmanager
def _in_mode(mode: _Mode) -> Iterator[None]:
    global _mode
    before, _mode = _mode, mode
    try:
        _raise_if_requested()
        yield
        _raise_if_requested()
    finally:
        _mode = before


def _raise_if_requested() -> None:
    global _raised
    if _received is not None:
        _raised = True
        raise Interrupted


def status() -> int:
    """The exit status of a command that was interrupted: 130 for Ctrl-C and 143 for SIGTERM."""
    return 128 + (_received or signal.SIGINT)


def print_line() -> None:
    """Print, once, what is done and that the same command goes on."""
    global _printed
    with _printing:
        if not (_printed or _silent):
            for stream, text in ((sys.stderr, LINE.format(_done) + "\n"), (sys.stdout, "")):
                with contextlib.suppress(OSError):  # of a pipe that nobody reads any more
                    print(text, end="", file=stream, flush=True)
        _printed = True


def end() -> NoReturn:
    """End this process and those that it started, with its line and nothing else."""
    try:
        for child in multiprocessing.active_children():  # one that is still starting does not watch its parent yet
            child.kill()
        if sys.stderr is not None and sys.stderr.isatty() and not (_printed or _silent):
            os.write(2, b"\n")  # below the progress bar
        printing = threading.Thread(target=print_line, daemon=True)
        printing.start()
        printing.join(PRINT_SECONDS)
    finally:
        os._exit(status())


def _handle(number: int, frame: FrameType | None) -> None:
    global _received, _raised
    _received = _received or number
    if _mode == "raise" and not _raised:
        _raised = True
        raise Interrupted


def _watch(receiver: socket.socket, worker: bool) -> None:
    """Read the signals that Python's own C handler writes, whatever the main thread does meanwhile."""
    global _received
    while (number := receiver.recv(1)[0]) not in SIGNALS:
        pass
    _received = _received or number
    if _mode == "end":
        end()
    first = time.monotonic()
    while (rest := first + LIMIT_SECONDS - time.monotonic()) > 0:
        receiver.settimeout(rest)
        with contextlib.suppress(TimeoutError):
            again = receiver.recv(1)[0] in SIGNALS
            if again and not worker and time.monotonic() > first + REPEAT_SECONDS:
                break
    end()


def _swallowed(unraisable: Any) -> None:
    """An interrupt that Python drops, for it was raised in a finalizer or a callback, ends the process all the same."""
    if isinstance(unraisable.exc_value, Interrupted):
        end()
    sys.__unraisablehook__(unraisable)

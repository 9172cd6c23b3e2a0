"""Ctrl-C, SIGTERM and SIGHUP: a command ends within seconds and prints one line on its progress.

The first signal raises `Interrupted` in the main thread. Within `deferred` it only sets what `requested` returns:
training reads that between two steps, writes a checkpoint, and raises `Interrupted` itself. A thread ends the process
where stopping takes longer than LIMIT_SECONDS, and at once on a second signal, even while the main thread runs native
code. That is safe: every file is complete or absent, and the same command continues from the last checkpoint.

A process that has not called `install` is not changed: there Ctrl-C raises KeyboardInterrupt.
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
from collections.abc import Generator
from types import FrameType
from typing import Any, Literal, NoReturn

# A terminal that is closed sends SIGHUP, which Windows does not have.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
LINE = "contextual-rnn: interrupted {}; the same command goes on"
LIMIT_SECONDS = 3.5
# `timeout` and torchrun repeat a signal that the terminal has sent to the whole group. It is not a second Ctrl-C.
REPEAT_SECONDS = 2.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.1
PRINT_SECONDS = 0.5  # a pipe that nobody reads must not block the end

# What a signal does: end the process at once, raise `Interrupted` in the main thread, or leave it to `requested`.
_Mode = Literal["end", "raise", "defer"]


class Interrupted(KeyboardInterrupt):
    """A command was asked to stop, by Ctrl-C, SIGTERM or SIGHUP."""


_mode: _Mode = "end"
_received: int | None = None  # the first signal
_raised = False
_done = "before it began"
_silent = False
_printing = threading.Lock()
_printed = False


def install(*, worker: bool = False) -> None:
    """Handle SIGINT, SIGTERM and SIGHUP from now on; call it in the main thread of a process that is ours.

    A worker prints nothing and ignores repetitions, because its parent repeats what the terminal sends to both. A
    signal that is ignored, as under nohup, stays ignored.
    """
    global _silent
    # Of a torchrun group the first process alone prints.
    _silent = worker or (os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0")
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(receiver, worker), name="interrupts", daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _handle)
    sys.unraisablehook = _swallowed


def requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _received is not None


def describe(done: str) -> None:
    """Set what the line of an interrupted command says, such as "at step 3 of 9"."""
    global _done
    _done = done


def describe_runs(done: int, total: int) -> None:
    describe(f"with {done} of {total} runs done")


@contextlib.contextmanager
def raising() -> Generator[None]:
    """A signal raises `Interrupted` in the main thread meanwhile; a command begins, which may print its own line."""
    global _printed
    _printed = False
    with _in_mode("raise"):
        yield


@contextlib.contextmanager
def deferred() -> Generator[None]:
    """A signal makes `requested` return True meanwhile, and raises `Interrupted` at the end."""
    with _in_mode("defer"):
        yield


@contextlib.contextmanager
def _in_mode(mode: _Mode) -> Generator[None]:
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
    """The exit status of a command that was interrupted: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
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
    """End this process and its children at once, with the line."""
    try:
        for child in multiprocessing.active_children():  # one that still starts does not watch its parent yet
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
    """Read the signals that Python's C handler writes to a socket, whatever the main thread does meanwhile."""
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
    """End the process where Python would drop the exception, because it was raised in a finalizer or a callback."""
    if isinstance(unraisable.exc_value, Interrupted):
        end()
    sys.__unraisablehook__(unraisable)

"""Files that are complete or absent: this package writes all its files with these functions."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
from pathlib import Path

TEMPORARY = ".writing"  # how the name of a file ends while it is written
NAME_BYTES = 200  # of the file's name in the temporary one: file systems take names of up to 255 bytes


def write_whole(path: str | os.PathLike[str], data: bytes | str, *, durable: bool = True) -> None:
    """Write `data`, text as UTF-8, beside `path` and rename it: a reader sees the old file or the new one.

    Several processes may write one path at once; the last rename wins. `durable` waits until the disk has the bytes,
    without which a power cut may still lose them. A file that is replaced keeps its permissions; where `path` is a
    link, the file that it points to is replaced. A device or pipe is written as it is.

    Raises OSError, which names `path`; the old file is then as it was. TypeError or ValueError for what is no path.
    """
    check_path(path)
    data = unicode_text(data).encode() if isinstance(data, str) else data
    target = Path(os.path.realpath(path))
    try:
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            with open(target, "wb", buffering=0) as file:
                _write(file, data)
            return
        _replace(target, data, mode, durable)
    except OSError as error:
        raise OSError(error.errno, f"could not be written: {error.strerror or error}", os.fspath(path)) from error


def unicode_text(text: object) -> str:
    """A text or path as UTF-8 can write it: bytes of a path that the locale does not know are UTF-8, or are escaped."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_path(path: object) -> None:
    """TypeError or ValueError for what can be no path of a file."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected a path, got {type(path).__name__}")
    if "\0" in os.fsdecode(path):
        raise ValueError(f"path: expected one without null characters, got {path!r}")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote."""
    for path in folder.glob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _replace(target: Path, data: bytes, mode: int | None, durable: bool) -> None:
    name = os.fsdecode(os.fsencode(target.name)[:NAME_BYTES])
    permissions = 0o666 if mode is None else stat.S_IMODE(mode)  # permissions, of which the umask first removes some
    for last_attempt in (False, False, True):
        temporary = target.with_name(f"{name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            with open(
                temporary, "xb", buffering=0, opener=lambda path, flags: os.open(path, flags, permissions)
            ) as file:
                _write(file, data)
                if durable:
                    os.fsync(file.fileno())
            if mode is not None:
                os.chmod(temporary, permissions)
            temporary.replace(target)
            return
        except BaseException as error:  # Ctrl-C too
            with contextlib.suppress(OSError):
                temporary.unlink()
            # Another process may have removed our temporary file as a leftover.
            if last_attempt or not isinstance(error, FileNotFoundError) or not target.parent.is_dir():
                raise


def _write(file: io.RawIOBase, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _mode(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None

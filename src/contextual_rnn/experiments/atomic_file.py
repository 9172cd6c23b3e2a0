"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

BESIDE = ".writing"


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write beside and rename, so that a reader, or whoever comes after a kill, sees the old file or the new one.

    Several processes may write one path at once; the last rename wins. `durable` waits until the disk has the bytes,
    without which a power cut may still lose them. Raises OSError, which names `path`, and leaves the old file as it
    was.
    """
    for again in (True, True, False):
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{BESIDE}")
        try:
            with open(beside, "xb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                if durable:
                    os.fsync(file.fileno())
            os.replace(beside, path)
            return
        except OSError as error:
            # Whoever finishes here meanwhile, because this process was thought dead, takes its file for a leftover.
            if again and isinstance(error, FileNotFoundError) and path.parent.is_dir():
                continue
            with contextlib.suppress(OSError):
                beside.unlink()
            raise OSError(error.errno, f"could not be written: {error.strerror}", str(path)) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left behind."""
    for path in folder.glob(f"*{BESIDE}"):
        path.unlink(missing_ok=True)

"""Folders of runs in an object store that many workers share, by URL: s3://bucket/sweep, gs://, memory://, file://.

A run trains in a folder of its own on the worker's disk. With every checkpoint its files go to the store, the result
last; a worker that replaces a lost one reads them from there and continues to the same bytes. As on a disk,
nothing is locked; two workers with the same run write the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Collection, Generator, Iterable, Sequence
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from contextual_rnn._numbers import shortened
from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.runs.folder import CHECKPOINT, CONFIG, METRICS, RESULT, WEIGHTS, Refused, raise_it

# In this order: a run in the store always has a configuration, and is complete once it has a result.
FILES = (CONFIG, METRICS, WEIGHTS, CHECKPOINT, RESULT)
READ = (CONFIG, METRICS, WEIGHTS, RESULT)  # by reports

Place = Path | str  # a folder, or the URL of one


def place_of(text: str) -> Place:
    """The URL that `text` is, or the path. Raises ValueError for a URL without a folder."""
    protocol, separator, folder = text.partition("://")
    if not separator:
        return Path(text)
    if not folder.strip("/"):
        raise ValueError(f"folder: expected a URL with a folder after {protocol}://, got {text}")
    return text.rstrip("/")


def out_folder(out: Path | str) -> Place:
    """The folder that the option `out` names, or its URL. Raises ValueError where a file is in its place."""
    place = place_of(out) if isinstance(out, str) else out
    if isinstance(place, Path):
        for path in (place, *place.absolute().parents):
            if path.exists() and not path.is_dir():
                raise ValueError(f"out: expected a folder that is there or can be made, got {out}: {path} is a file")
    return place


def out_file(path: Path, endings: Sequence[str]) -> Path:
    """The file that the option `out` names, which says by one of `endings` what is in it.

    Raises ValueError where it is a folder or has another ending, or where its folder is a file.
    """
    if path.is_dir():
        raise ValueError(f"out: expected a file, got {path}, which is a folder")
    if path.suffix not in endings:
        expected = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise ValueError(f"out: expected a file that ends in {expected}, got {str(path)!r}")
    out_folder(path.parent)
    return path


def below(place: Place, name: str) -> Place:
    return place / name if isinstance(place, Path) else f"{place}/{name}"


def inside(folder: Path, name: str) -> Path:
    """Where the file `name` of `folder`, or of a folder in it, lies on a disk.

    Raises ValueError for a name that leaves the folder, on this system or another: with a part that is empty, . or ..,
    a drive, a backslash or a control character, or by a link.
    """
    path = folder / check_name(name, folder)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise _leaves(name, folder)
    return path


def check_name(name: str, place: Place) -> str:
    """`name`, with / between its parts, where it stays inside of `place`; else ValueError. See `inside`."""
    parts = name.split("/")
    if {"", ".", ".."}.intersection(parts) or re.search(r"[\x00-\x1f\x7f\\]|(^|/)[A-Za-z]:", name):
        raise _leaves(name, place)
    return name


def _leaves(name: str, place: Place) -> ValueError:
    return ValueError(f"name: expected the name of a file inside {place}, got {name!r}")


class Store:
    """The folder at `place`.

    Raises ImportError, which names the package, where its protocol needs one, ValueError for an unknown protocol, and
    TypeError for what is no path and no URL.
    """

    def __init__(self, place: Place):
        if not isinstance(place, str | Path):
            raise TypeError(f"folder: expected a folder or its URL, got {shortened(place)}")
        self.url = str(place)
        try:
            self._files, self._root = fsspec.url_to_fs(self.url)
        except ValueError as error:
            raise ValueError(f"folder: expected a path or a URL that fsspec opens, got {self.url}: {error}") from error

    def _path(self, name: str) -> str:
        """Where the file `name` is for fsspec; raises ValueError for a name that leaves the folder."""
        if isinstance(self._files, LocalFileSystem):
            inside(Path(self._root), name)
        return f"{self._root.rstrip('/')}/{check_name(name, self.url)}"

    def names(self) -> list[str]:
        """Every file in the folder or below it, by its path from there; those that leave the folder too."""
        self._files.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            root = self._root.rstrip("/")
            return [path.removeprefix(root).removeprefix("/") for path in self._files.find(self._root)]
        return []

    def exists(self, name: str) -> bool:
        self._files.invalidate_cache()
        return self._files.isfile(self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Object stores have a file whole or not at all; on a disk it is written beside and renamed.

        Raises ValueError for a name that leaves the folder, OSError where it cannot be written.
        """
        path = self._path(name)
        if isinstance(self._files, LocalFileSystem):
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            write_whole(path, data)
        else:
            self._files.pipe_file(path, data)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def fetch(self, names: Iterable[str], folder: Path, refused: Refused = raise_it) -> None:
        """Copy files, many at a time, into `folder`, where none of them is yet.

        The ValueError for a name that leaves the folder, that two files have there or that the disk cannot have goes
        to `refused`, which by default raises it.
        """
        targets: dict[str, tuple[str, Path]] = {}
        for name in names:
            try:
                path = self._path(name)
                targets[path] = name, inside(folder, name)
            except ValueError as error:
                refused(error)
        # Not `cat`, for which a name with a * or [ is a pattern.
        files = self._files.cat_ranges(list(targets), [None] * len(targets), [None] * len(targets))
        for (name, target), data in zip(targets.values(), files, strict=True):
            if isinstance(data, FileNotFoundError):  # another worker may have removed a checkpoint
                continue
            if isinstance(data, Exception):
                raise data
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as file:
                    file.write(data)
            except (FileExistsError, NotADirectoryError):  # on a disk that does not tell A from a
                refused(ValueError(f"name: expected another one for each file of {self.url}, got {name!r} beside it"))
            except OSError as error:
                if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                    raise
                refused(ValueError(f"name: expected one that this disk can have, got {name!r} in {self.url}"))


@contextlib.contextmanager
def readable(place: Place, files: Collection[str] = READ, refused: Refused = raise_it) -> Generator[Path]:
    """The folder itself or, for as long as it is read, a copy of these files of every run in the store.

    The error of a file that is not copied, since its name leaves the folder, goes to `refused`, which by default raises
    it.
    """
    if isinstance(place, Path):
        yield place
        return
    store = Store(place)
    with tempfile.TemporaryDirectory(prefix="contextual-rnn-") as scratch:
        store.fetch([name for name in store.names() if _file(name) in files], Path(scratch), refused)
        yield Path(scratch)


def _file(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def give_back(folder: Path, names: Iterable[str], place: Place) -> None:
    """Put files that were made in the copy at `folder` into the store that `place` is; of a folder there is no copy."""
    if isinstance(place, str):
        for name in names:
            if (folder / name).is_file():
                Store(place).write(name, (folder / name).read_bytes())


def count(place: Place, names: Iterable[str]) -> int:
    """How many of the files `names` there are in the folder, or below it."""
    if isinstance(place, Path):
        return sum((place / name).is_file() for name in names)
    return len(set(names).intersection(Store(place).names()))

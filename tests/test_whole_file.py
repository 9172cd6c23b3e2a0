"""One way to write a file: whole or not at all, whatever stops it."""

import ast
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contextual_rnn import _whole_file
from contextual_rnn._whole_file import write_whole

ROOT = Path(__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_bytes_and_text(tmp_path):
    write_whole(tmp_path / "a", b"\x00\r\n")
    write_whole(str(tmp_path / "b"), "é\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "b").read_bytes() == "é\n".encode()
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_what_is_interrupted_leaves_the_old_file_alone(place, error, tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_whole(file, b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(*{"write": (_whole_file, "_write")}.get(place, (os, place)), fail)
    with pytest.raises(type(error)) as raised:
        write_whole(file, b"new")
    if isinstance(error, OSError):
        assert str(raised.value) == f"[Errno 28] could not be written: No space left on device: '{file}'"
    assert names(tmp_path) == ["file"]
    assert file.read_bytes() == b"old"


def test_permissions_follow_the_umask_and_those_of_a_file_that_is_replaced_stay(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        for mode in (0o600, 0o666):
            (tmp_path / "file").chmod(mode)
            write_whole(tmp_path / "file", b"more")
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target"
    for link in (tmp_path / "link", tmp_path / "link of the link"):
        link.symlink_to(target if link.name == "link" else tmp_path / "link")
        for text in ("first", "second"):  # at first the link dangles
            write_whole(link, text)
            assert link.is_symlink()
            assert target.read_text() == text
        target.unlink()
    assert names(tmp_path / "elsewhere") == []


def test_a_pipe_and_a_device_are_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, b"through the pipe")
    reader.join(10)
    assert read == [b"through the pipe"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "device").symlink_to("/dev/null")
    write_whole(tmp_path / "device", b"nowhere")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_folder_or_a_missing_folder_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "file"):
        with pytest.raises(OSError, match=f"could not be written: .*: '{path}'$"):
            write_whole(path, b"")
    assert names(tmp_path) == []


def test_as_long_a_name_as_the_disk_takes(tmp_path):
    for name in ("n" * 255, "é" * 127):
        write_whole(tmp_path / name, b"data")
        assert names(tmp_path) == [name]
        (tmp_path / name).unlink()


def test_several_writers_of_one_file_leave_one_of_their_files_whole(tmp_path):
    file = tmp_path / "report.html"

    def write(letter):
        for _ in range(20):
            write_whole(file, letter * 10_000, durable=False)
            text = file.read_text()
            assert len(text) == 10_000
            assert len(set(text)) == 1

    with ThreadPoolExecutor(3) as writers:
        list(writers.map(write, "abc"))
    assert names(tmp_path) == ["report.html"]


# Copies that nobody keeps, and a file of the kernel's.
ELSEWHERE = {"store.py": ["open"], "sweeps.py": ["write_bytes", "write_text", "write_text"]}
ELSEWHERE |= {"recurrence.py": ["write_text"], "_whole_file.py": ["open", "open", "replace"]}
WRITES = {"write_text", "write_bytes", "savefig", "save_file", "save_model", "rename"}


def test_nothing_is_written_in_another_way():
    for path in [path for folder in ("src", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        ways = []
        for call in calls:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            if name == "savefig" and any(keyword.arg == "format" for keyword in call.keywords):
                continue  # into memory
            if name == "rename" and not call.args:
                continue  # of pandas: columns
            writes = name == "open" and any(isinstance(text, str) and set(text) <= set("wxabt+") for text in texts)
            moves = name == "replace" and len(call.args) + len(call.keywords) == 1 and not call.keywords
            if name in WRITES or writes or moves:
                ways.append(name)
        assert sorted(ways) == ELSEWHERE.get(path.name, []), path


def test_text_with_a_path_of_another_encoding(tmp_path):
    """In a C locale Python has the bytes of a path as surrogates, and so in every locale those that are no UTF-8."""
    write_whole(tmp_path / "file", "p\udcc3\udca4th and \udcff")
    assert (tmp_path / "file").read_text("utf-8") == "p\xe4th and \\xff"

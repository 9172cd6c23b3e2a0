"""A name that leaves the folder is refused, in whatever form, whichever way files go."""

import os
from functools import partial

import fsspec
import pytest
from tests.experiments.test_damaged_runs import made_run

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.store import Store, inside, readable

LEAVING = [
    "../config.json",
    "a/../../config.json",
    "a/../config.json",
    "..",
    "a/..",
    ".",
    "./config.json",
    "a/./config.json",
    "/etc/config.json",
    "//etc/config.json",
    "a//config.json",
    "a/",
    "",
    "..\\config.json",
    "a\\..\\..\\config.json",
    "\\\\server\\share\\config.json",
    "C:/config.json",
    "C:config.json",
    "a/c:config.json",
    "a\0/config.json",
    "a\n/config.json",
    "a\x1b[31m/config.json",
]
STAYING = [
    "config.json",
    "a/config.json",
    "%2e%2e/config.json",
    "..a/b../...",
    "a b/config.json",
    "a*[1]?/config.json",
    "é",
]


def files_around(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.mark.parametrize("name", LEAVING)
def test_refused_everywhere(name, tmp_path):
    folder = tmp_path / "x" / "y"
    folder.mkdir(parents=True)
    for place in (folder, f"file://{folder}", "memory://bucket/sweep"):
        for call in (partial(Store.write, data=b"x"), Store.exists, Store.remove):
            with pytest.raises(ValueError, match=r"^name: expected the name of a file inside .*, got "):
                call(Store(place), name)
    for url in (f"file://{folder}", "memory://bucket/sweep"):
        with pytest.raises(ValueError, match="name: expected"):
            Store(url).fetch([name], tmp_path / "scratch")
    with pytest.raises(ValueError, match="name: expected"):
        inside(folder, name)
    assert files_around(tmp_path) == []


@pytest.mark.parametrize("name", STAYING)
@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_others_are_as_they_are(name, kind, tmp_path, memory):
    place = {"folder": tmp_path / "s", "file": f"file://{tmp_path}/s", "memory": "memory://bucket/s"}[kind]
    if kind == "folder":
        (tmp_path / "s" / name).parent.mkdir(parents=True)
    Store(place).write(name, b"text")
    assert Store(place).exists(name)
    if kind != "folder":
        assert Store(place).names() == [name]
        Store(place).fetch([name], tmp_path / "copy")
        assert (tmp_path / "copy" / name).read_bytes() == b"text"
    Store(place).remove(name)
    assert not Store(place).exists(name)


@pytest.mark.parametrize("name", [name for name in LEAVING if store._file(name) == "config.json"])
def test_the_other_runs_of_a_store_are_read(name, tmp_path, memory, monkeypatch, capsys):
    """As a key that somebody else has put there."""
    scratch = tmp_path / "a" / "b"
    scratch.mkdir(parents=True)
    monkeypatch.setattr(store.tempfile, "tempdir", str(scratch))
    run = made_run(tmp_path / "run")
    for file in ("config.json", "metrics.jsonl", "result.json"):
        memory.pipe_file(f"/bucket/sweep/good/{file}", (run / file).read_bytes())
    memory.store[f"/bucket/sweep/{name}"] = memory.store["/bucket/sweep/good/config.json"]
    if f"/bucket/sweep/{name}" not in memory.find("/bucket/sweep"):
        pytest.skip("this fsspec does not list such a key")
    before = files_around(tmp_path)
    assert main(["results", "memory://bucket/sweep"]) == 0
    out, error = capsys.readouterr()
    assert "0.5" in out
    assert repr(name) in error
    assert "left out: 1 in all" in error
    assert files_around(tmp_path) == before
    with pytest.raises(ValueError, match="name: expected"), readable("memory://bucket/sweep"):
        pass


def test_links_that_lead_out(tmp_path):
    """Of the folder that is written to, and of the one that is read into."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "within").mkdir()
    (folder / "near").symlink_to(folder / "within")
    for place in (folder, f"file://{folder}"):
        with pytest.raises(ValueError, match="name: expected"):
            Store(place).write("link/config.json", b"x")
        Store(place).write("near/config.json", b"x")
    assert files_around(outside) == []
    source = Store(f"file://{tmp_path}/source")
    source.write("link/config.json", b"x")
    with pytest.raises(ValueError, match="name: expected"):
        source.fetch(["link/config.json"], folder)
    source.write("file.json", b"mine")
    (folder / "file.json").symlink_to(outside / "theirs")
    with pytest.raises(ValueError, match="name: expected the name of a file inside"):
        source.fetch(["file.json"], folder)
    assert files_around(outside) == []


def test_names_that_are_one_on_a_disk(tmp_path, memory):
    """A file that is a folder too; and, on a disk that does not tell A from a, both."""
    for name in ("run/config.json", "good/config.json"):
        memory.pipe_file(f"/bucket/s/{name}", b"x")
    memory.store["/bucket/s/run"] = memory.store["/bucket/s/run/config.json"]  # as object stores have it
    errors = []
    Store("memory://bucket/s").fetch(["run", "run/config.json", "good/config.json"], tmp_path / "copy", errors.append)
    assert [str(error).partition(", got ")[2] for error in errors] == ["'run/config.json' beside it"]
    assert files_around(tmp_path / "copy") == ["good/config.json", "run"]
    (tmp_path / "copy" / "good" / "config.json").write_bytes(b"the other one")
    with pytest.raises(ValueError, match="name: expected another one for each file of memory://bucket/s"):
        Store("memory://bucket/s").fetch(["good/config.json"], tmp_path / "copy")
    assert (tmp_path / "copy" / "good" / "config.json").read_bytes() == b"the other one"


def test_a_name_is_no_pattern(tmp_path, memory):
    for name in ("a[1]/config.json", "a1/config.json", "a*/config.json"):
        memory.pipe_file(f"/bucket/s/{name}", name.encode())
    Store("memory://bucket/s").fetch(["a[1]/config.json", "a*/config.json"], tmp_path)
    assert files_around(tmp_path) == ["a*/config.json", "a[1]/config.json"]
    assert (tmp_path / "a[1]" / "config.json").read_bytes() == b"a[1]/config.json"


def test_what_is_gone_meanwhile_is_no_error_and_anything_else_is(tmp_path, memory, monkeypatch):
    memory.pipe_file("/bucket/s/a/config.json", b"x")
    Store("memory://bucket/s").fetch(["a/config.json", "b/config.json"], tmp_path)
    assert os.listdir(tmp_path) == ["a"]
    monkeypatch.setattr(memory, "cat_file", lambda *_, **__: (_ for _ in ()).throw(PermissionError("not yours")))
    with pytest.raises(PermissionError, match="not yours"):
        Store("memory://bucket/s").fetch(["a/config.json"], tmp_path / "more")


def test_a_file_that_is_a_link_out_of_the_folder(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (folder / "sweep.json").symlink_to(outside / "made")  # there is none yet
    (folder / "round").symlink_to(folder / "round")
    (folder / "within").symlink_to(folder / "file")
    for place in (folder, f"file://{folder}"):
        with pytest.raises(ValueError, match="name: expected the name of a file inside"):
            Store(place).write("sweep.json", b"x")
    Store(folder).write("within", b"x")
    assert (folder / "file").read_bytes() == b"x"
    assert files_around(outside) == []


def test_a_name_that_a_disk_cannot_have(tmp_path, memory, capsys):
    run = made_run(tmp_path / "run")
    for file in ("config.json", "metrics.jsonl", "result.json"):
        for folder in ("good", "x" * 300):
            memory.pipe_file(f"/bucket/sweep/{folder}/{file}", (run / file).read_bytes())
    assert main(["results", "memory://bucket/sweep"]) == 0
    assert "name: expected one that this disk can have" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["s3://", "memory:///"])
def test_a_url_without_a_folder_is_no_place(url):
    """Without its slashes it would be a folder here."""
    with pytest.raises(ValueError, match="folder: expected a URL with a folder after"):
        store.place_of(url)

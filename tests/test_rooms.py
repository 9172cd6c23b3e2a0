"""The rooms of the package: each imports only rooms below it, and no file imports itself in a circle."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import contextual_rnn

PACKAGE = Path(contextual_rnn.__file__).parent
ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (\d+) \| (.+?) \| .+ \|$")


def read_floors() -> list[list[str]]:
    """The table of CONTRIBUTING.md, lowest floor first: the rooms of each, as paths without `.py`."""
    rows = [found for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if (found := ROW.match(line))]
    return [re.findall(r"`([^`]+)`", rooms) for _, rooms in sorted((int(row[1]), row[2]) for row in rows)]


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__").removesuffix("__init__")


def imports_of(source: str, modules: set[str]) -> set[str]:
    """The modules of this package that a file imports anywhere: in functions and under TYPE_CHECKING too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, or this test does not see them"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("contextual_rnn.") for name in names if name.startswith("contextual_rnn.")}
    return {name if name in modules else name.rpartition(".")[0] for name in inside} & modules


def room_of(module: str, floors: list[list[str]]) -> tuple[int, str]:
    """The floor and the room of a module: the room of the longest name that it is in."""
    places = [
        (len(room), floor, room)
        for floor, rooms in enumerate(floors)
        for room in rooms
        if module == room or module.startswith(f"{room}.") or (room == "_*" and module.startswith("_"))
    ]
    assert places, f"{module} stands in no room: add it to the table of CONTRIBUTING.md"
    return max(places)[1:]


def violations(imports: dict[str, set[str]], floors: list[list[str]]) -> list[str]:
    wrong = []
    for module, imported in imports.items():
        floor, room = room_of(module, floors)
        for other in sorted(imported):
            other_floor, other_room = room_of(other, floors)
            if other_room != room and other_floor >= floor:
                wrong.append(f"{module} ({room}) imports {other} ({other_room})")
    return wrong


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    paths.pop("")  # the table of contents imports from every room
    return {name: imports_of(path.read_text(), set(paths)) - {name} for name, path in paths.items()}


def test_every_room_imports_only_rooms_below(imports):
    assert len(imports) > 80
    assert violations(imports, read_floors()) == []


def test_no_file_imports_itself_in_a_circle(imports):
    # What a folder's `__init__` re-exports does not make a circle of the files in it.
    files = {name: {other for other in others if not is_folder(other)} for name, others in imports.items()}
    files = {name: others for name, others in files.items() if not is_folder(name)}
    try:
        TopologicalSorter(files).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def is_folder(module: str) -> bool:
    return (PACKAGE / module.replace(".", "/")).is_dir()


@pytest.mark.parametrize(
    "source",
    [
        "from contextual_rnn.rnn import ContextualRNN",
        "def f():\n    from contextual_rnn.rnn import ContextualRNN",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from contextual_rnn import rnn",
        "import contextual_rnn.rnn",
    ],
)
def test_an_import_of_a_room_above_is_seen(imports, source):
    planted = {**imports, "spec.tree": imports_of(source, set(imports))}
    assert violations(planted, read_floors()) == ["spec.tree (spec) imports rnn (rnn)"]


def test_no_folder_is_crowded_and_no_file_long():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    crowded = {str(folder): n for folder in folders if (n := len(list(folder.glob("*.py")))) > 20}
    assert not crowded
    limits = {"*.py": 300, "*.h": 400, "*.cpp": 400}
    lines = {path: len(path.read_text().splitlines()) for kind in limits for path in PACKAGE.rglob(kind)}
    assert not {path.name: n for path, n in lines.items() if n > limits[f"*{path.suffix}"]}


def test_the_lists_to_add_something_to_are_where_the_table_says():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## To add something")[2].partition("\n## ")[0]
    lists = [
        (name, path, Path(first).parent)
        for first, cell in re.findall(r"^\| [^|]+\| (?:[^|`]*`([^`]+)`)?[^|]*\|([^|]*)\|", table, re.MULTILINE)
        for name, path in re.findall(r"`(\w+)` in `([^`]+)`", cell)
    ]
    assert len(lists) >= 7
    for name, path, folder in lists:
        places = [ROOT, PACKAGE, PACKAGE / "experiments", PACKAGE / folder]
        text = "".join((place / path).read_text() for place in places if (place / path).is_file())
        defined = rf"^(?:{name}\b[^=\n]*=|def {name}\(|set\({name}\b|\s*{name}\()"
        assert re.search(defined, text, re.MULTILINE), f"{name} in {path}"

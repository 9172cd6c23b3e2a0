"""The pages that people read, and the code on them."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def run(page: Path) -> dict:
    """The variables after the Python on a page has run in order, as one program."""
    scope: dict = {"__name__": page.stem}
    exec(compile("\n".join(blocks(page, "python")), str(page), "exec"), scope)
    return scope


def names_used(sources: Iterable[str]) -> Iterator[str]:
    """Every name, attribute and imported name in the code."""
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.ImportFrom):
                yield from (alias.name for alias in node.names)

"""Plain English: phrases that nobody outside this project uses are refused, and variables have names of what they hold.

A phrase is looked for in Markdown, in the Makefile and in comments, docstrings and messages of code.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *sorted(ROOT.glob("docs/**/*.md"))]
PYTHON = [
    path for folder in ("src", "benchmarks", "examples", "tests") for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
]
OTHERS = [path for ending in ("h", "cpp", "jinja") for path in sorted(ROOT.glob(f"src/**/*.{ending}"))]

# What is refused, as a regular expression, and what to write instead.
PHRASES = {
    r"what (has |had )?c(a|o)me|as (it|they) came": "got, received, or the name of the thing",
    r"public doors?\b|\bthe doors?\b": "entry point",
    r"\bowe[sd]?\b": "must provide, is explained by",
    r"\btold apart|\btells? (\w+ )?apart|\btelling apart": "significantly different, distinguished",
    r"\b(cannot|can|could|must|should) be told\b|\bnot told\b": "no significant difference, cannot know",
    r"neither sooner nor later": "no significant difference in epochs",
    r"made sound alone|cures? the zero state": "replacing only these removes the zero state's plateau",
    r"\b(has|have|having|had|takes?) no part in": "is ignored, is left out of, does not affect",
    r"\bha(s|ve) of (the )?authors": "uses the authors' choice",
    r"\bobey(s|ed)? ": "exits with, uses, follows",
    r"\bhear(s|d|ing)?\b": "receive, broadcast",
    r"\bstands? for autograd|which serves where": "the native step applies; otherwise autograd runs",
    r"\bwas thought dead|takes its file for a leftover": "another worker may have cleaned up our temporary file",
    r"looked at ten thousand times": "completed futures are batched so that polling stays linear",
    r"go first: they know": "are evaluated first: they determine the batch size",
    r"\bwhich nobody could\b": "not reachable, and the reason",
}
ANY_PHRASE = re.compile("|".join(f"(?:{phrase})" for phrase in PHRASES), re.IGNORECASE)
NAMES = {"found", "made", "kept", "told", "shown", "came", "hear"}
NAMES_LEFT = 0  # goes down only


def comments(source: str) -> Iterator[str]:
    """Comments, those on lines that follow each other as one."""
    joined, last = "", -2
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1 and joined:
                yield joined
                joined = ""
            joined, last = f"{joined} {token.string.lstrip('# ')}", token.start[0]
    if joined:
        yield joined


def literals(source: str) -> Iterator[str]:
    """Strings, docstrings among them; of f-strings what is written out, as one."""
    parts: set[int] = set()
    for node in ast.walk(ast.parse(source)):  # an f-string before its parts
        if isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            yield "...".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def texts_of(path: Path) -> Iterator[str]:
    """What a person reads in a file, in pieces in which a phrase may run over lines."""
    content = path.read_text()
    if path.suffix == ".py":
        yield from comments(content)
        yield from literals(content)
    elif path.suffix in (".h", ".cpp"):
        yield re.sub(r"\n\s*//", " ", content)
    else:
        yield re.sub(r"\n#", " ", content)


def dialect(text: str) -> list[str]:
    """Every refused phrase in `text`, with its surroundings and what to write instead."""
    text = " ".join(text.split())
    if not ANY_PHRASE.search(text):  # as in nearly all
        return []
    return [
        f"{text[max(match.start() - 30, 0) : match.end() + 30]!r}: write {instead}"
        for phrase, instead in PHRASES.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]


def bound_names(source: str) -> Iterator[tuple[int, str]]:
    """Variables, arguments, attributes, functions, classes and imports that `source` gives a name, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias):
            yield node.lineno, node.asname or node.name
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name


def refused_names(source: str) -> list[tuple[int, str]]:
    """Names out of NAMES, a leading underscore aside."""
    return [(line, name) for line, name in bound_names(source) if name.lstrip("_") in NAMES]


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples", "pages"])
def test_no_phrase_of_our_own(folder):
    files = PAGES if folder == "pages" else [p for p in (*PYTHON, *OTHERS) if p.is_relative_to(ROOT / folder)]
    assert files
    lines = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in files
        if path != Path(__file__)
        for text in texts_of(path)
        for line in dialect(text)
    ]
    assert not lines, "\n".join(["phrases that a reader would have to guess:", *lines])


def test_variables_are_called_what_they_hold():
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in PYTHON
        if path.is_relative_to(ROOT / "src")
        for line, name in refused_names(path.read_text())
    ]
    assert len(lines) <= NAMES_LEFT, "\n".join([f"expected at most {NAMES_LEFT} of {sorted(NAMES)}, got:", *lines])


@pytest.mark.parametrize(
    "source",
    [
        '"""What a kernel owes."""',
        "x = 1  # checked at the\n# public door",
        "print(f'{state} cannot be'\n f' told from {other}')",
        "raise ValueError('expected one, not what ' 'came')",
    ],
)
def test_phrases_are_seen_wherever_they_stand(source, tmp_path):
    path = tmp_path / "file.py"
    path.write_text(source)
    assert [line for text in texts_of(path) for line in dialect(text)]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("found = 1", "found"),
        ("for a, kept in b: pass", "kept"),
        ("def f(*, told): pass", "told"),
        ("self._made = 1", "_made"),
        ("def hear(): pass", "hear"),
        ("from a import b as shown", "shown"),
        ("if (came := f()): pass", "came"),
    ],
)
def test_names_are_seen_wherever_they_are_bound(source, name):
    assert [bound for _, bound in refused_names(source)] == [name]
    assert not refused_names(source.replace(name, "rows"))

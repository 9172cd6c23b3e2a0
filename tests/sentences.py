"""How many numbers the sentences of a page hold. Tables, code, headings and pictures do not count."""

import re
from html.parser import HTMLParser

NUMBER = r"[+\-\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?:\s?%)?"
# What belongs to the value before it: an interval, its level, how many seeds it rests on.
BESIDE = rf"(?:{NUMBER}|to|and|in|of|over|[a-z]* ?seeds?|one|each|intervals?|bootstrap|points|epochs|never|[;,\s])+"
NAMES = (
    r"\b(?:Figures?|Tables?|Eqs?\.|Equations?|Python|torch|PyTorch|version|seed|section|chapter)\s\d[\w.]*",
    r"\b(?:19|20)\d\d\b",  # a year
    r"\b\w+\(\d+\)",  # h(0)
    r"\b95 % (?:bootstrap )?intervals?",
)
ABBREVIATIONS = r"(?<!\bal)(?<!\be\.g)(?<!\bi\.e)(?<!\bEq)(?<!\bEqs)(?<!\bvs)"


def numbers_of(sentence: str) -> int:
    """How many numbers a reader has to keep in mind; a value with its interval, level and seeds is one."""
    for name in NAMES:
        sentence = re.sub(name, " ", sentence)
    sentence = re.sub(rf"(?<![\w.]){NUMBER}(?:\s\w+)?\s?\({BESIDE}\)", " 1 ", sentence)
    sentence = re.sub(rf"\((?:{NUMBER}|[a-z]+) seeds?(?: each)?\)", " ", sentence)
    return len(re.findall(rf"(?<![\w.]){NUMBER}(?!\w)", sentence))


def sentences_of(text: str) -> list[str]:
    """The sentences of plain text; a blank line ends one too."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    parts = [re.split(rf"{ABBREVIATIONS}(?<=[.!?])[\"')*_]*\s+(?=\W*[A-Z0-9])", each) for each in paragraphs]
    return [sentence for each in parts for sentence in each if sentence]


def markdown_text(page: str) -> str:
    """The prose of a Markdown page: without code, tables, headings, comments, pictures and the targets of links."""
    page = re.sub(r"\A---\n.*?^---\n", "", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"^ *(`{3,}|~{3,}|:{3,}).*?^ *\1", "\n", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"<!--.*?-->|<[^>]+>", " ", page, flags=re.DOTALL)
    page = re.sub(r"!\[[^\]]*\]\([^)]*\)|\$[^$\n]+\$|`[^`\n]+`", " code ", page)
    page = re.sub(r"\]\([^)]*\)|\]\[[^\]]*\]", "] ", page)
    page = re.sub(r"^\s*(\||#|\[[^\]]+\]:).*$", "\n", page, flags=re.MULTILINE)
    return re.sub(r"^\s*(?:[-*+>]|\d+\.)\s", "\n\n", page, flags=re.MULTILINE)


class _Prose(HTMLParser):
    APART = frozenset(("p", "li", "h1", "h2", "h3", "figcaption", "dd", "dt", "div", "section", "summary", "figure"))
    LEFT_OUT = frozenset(("table", "pre", "code", "svg", "script", "style", "h1", "h2", "h3", "head", "output"))

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.inside = "", 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside += tag in self.LEFT_OUT
        self.text += "\n\n" * (tag in self.APART)

    def handle_endtag(self, tag: str) -> None:
        self.inside -= tag in self.LEFT_OUT
        self.text += "\n\n" * (tag in self.APART)

    def handle_data(self, data: str) -> None:
        self.text += "" if self.inside else data


def html_text(page: str) -> str:
    """The prose of an HTML page: without tables, code, drawings, headings, and folds of the class "settings"."""
    page = re.sub(r'<details class="settings">.*?</details>', "", page, flags=re.DOTALL)
    return _Prose(page).text


def crowded(text: str, most: int) -> list[str]:
    """Every sentence of `text` with more than `most` numbers, with its count."""
    counts = [(numbers_of(sentence), sentence) for sentence in sentences_of(text)]
    return [f"{count}: {sentence}" for count, sentence in counts if count > most]

"""Sentences that people read hold few numbers; more belong into a table."""

import pytest
from tests.pages import PAGES, README
from tests.sentences import crowded, markdown_text

OTHER_TESTS = ("evidence",)  # with the report, in tests/experiments


@pytest.mark.parametrize(
    "page", [README, *(page for page in PAGES if page.stem not in OTHER_TESTS)], ids=lambda page: page.stem
)
def test_a_sentence_holds_few_numbers(page):
    most = 3 if page == README else 6
    sentences = crowded(markdown_text(page.read_text()), most)
    assert not sentences, f"expected at most {most} numbers in a sentence of {page.name}, got: {sentences}"

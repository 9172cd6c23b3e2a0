"""The count of numbers in a sentence counts what a reader has to keep in mind."""

import pytest
from tests.sentences import crowded, html_text, markdown_text, numbers_of, sentences_of


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        ("A context state learns the task in 19 epochs instead of 46.5.", 2),
        ("It ends at 99.70% (99.43% to 99.76%), zero at 99.58% (99.29% to 99.67%; 10 seeds).", 2),
        ("A gain of +0.06 (\N{MINUS SIGN}0.09 to +0.37) points in 3 of 4 cells.", 3),
        ("Of h(0) and A(0), Figure 2 of Wenke and Fleming (2019) says nothing to int8 or wenke2019.", 0),
        ("Medians over 10 seeds with 95 % intervals.", 1),
        ("It takes 1, 2, 3 and 4.5 s.", 4),
        ("100,000 sequences and 1e-05 of weight.", 2),
        ("The error is a third of zero's (five seeds).", 0),
    ],
)
def test_numbers(sentence, count):
    assert numbers_of(sentence) == count


def test_sentences_end_where_a_reader_ends_them():
    text = "Ba et al. wrote it. It is 0.5 of 2. (So it\nis.) Is it?\n\nThe next paragraph"
    expected = ["Ba et al. wrote it.", "It is 0.5 of 2.", "(So it is.", "Is it?", "The next paragraph"]
    assert sentences_of(text) == expected


def test_tables_and_code_do_not_count():
    page = "# 1 2 3 4\n\n| 1 | 2 |\n\n```sh\n1 2 3 4\n```\n\nOne `1 2 3 4` [link](1 2 3 4). Five 1 2 3 4.\n- 1 2 3"
    assert crowded(markdown_text(page), 3) == ["4: Five 1 2 3 4."]
    html = "<h2>1 2 3 4</h2><table><tr><td>1 2 3 4</td></tr></table><p>Five 1 2 3 4.</p><p>1 2 3</p><p>4 5</p>"
    assert crowded(html_text(html), 3) == ["4: Five 1 2 3 4."]
    settings = '<details class="settings"><summary>Settings</summary><p>1 2 3 4</p></details>'
    assert not crowded(html_text(settings), 3)

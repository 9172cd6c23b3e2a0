"""Rows that are texts: tokens, contexts, series as clusters."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from contextual_rnn.experiments.panels import Columns, Split, prepare, read_panel

TEXTS = ["été", "", "ab", None, "ba", "tab€", "be", "at", "tea", "bat"]
LANGUAGES = ["fr", "fr", "en", "en", "en", "fr", "en", "fr", "en", "en"]
COLUMNS = Columns(target="name", context=("language",))


def texts(**columns) -> pa.Table:
    return pa.table({"name": TEXTS, "language": LANGUAGES, **columns})


@pytest.mark.parametrize("form", ["plain", "dictionary", "large", "sliced"])
@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_tokens_of_each_row_are_its_characters_or_bytes(form, kind):
    table = texts()
    if form == "dictionary":
        table = table.set_column(0, "name", table["name"].dictionary_encode())
    elif form == "large":
        table = table.set_column(0, "name", table["name"].cast(pa.large_string()))
    elif form == "sliced":
        table = pa.concat_tables([table, table]).slice(10)
    panel = read_panel(table, Columns(target="name", kinds={"name": kind}))
    rows = [row for row, text in enumerate(TEXTS) if text]
    assert panel.steps.rows[panel.steps.offsets[:-1]].tolist() == rows
    for piece, row in enumerate(rows):
        steps = slice(*panel.steps.offsets[piece : piece + 2])
        tokens = [panel.target.categories[code] for code in panel.target.codes[steps]]
        assert tokens == list(TEXTS[row] if kind == "characters" else TEXTS[row].encode())
        assert panel.steps.time[steps].tolist() == list(range(len(tokens)))


def test_texts_read_the_token_before_and_a_context_a_row():
    panel = read_panel(texts(), COLUMNS)
    assert panel.columns.reads_itself
    assert panel.summary["rows"] == {"read": 10, "used": 8, "left out": {"name is missing": 1, "name is empty": 1}}
    data = prepare(panel, Split())
    assert data.summary["rows"]["used"] + sum(data.summary["rows"]["left out"].values()) == 10
    batch = data.batch(data.train)
    for place, sequence in enumerate(data.train.sequence):
        row = panel.steps.rows[data.train.first[place]]
        target = [data.target.classes[code] for code in batch.target[place][batch.observed[place]]]
        assert "".join(target) == TEXTS[row]
        seen = [data.inputs[step.argmax()] for step in batch.inputs[place, : len(target)]]
        assert seen == [f"name before {token}" if token else "name before missing" for token in (None, *target[:-1])]
        assert panel.context["language"].categories[panel.context["language"].codes[sequence]] == LANGUAGES[row]


def test_texts_of_one_author_are_one_series():
    rows = 40
    table = pa.table(
        {
            "text": [f"text {'abc'[row // 8 % 3]}" for row in range(rows)],
            "author": [f"a{row % 8}" for row in range(rows)],
            "school": [f"s{row % 8 % 4}" for row in range(rows)],
        }
    )
    columns = Columns(target="text", series="author", group="school", context=("school",), window=2)
    for split in (Split(), Split("group")):
        data = prepare(read_panel(table, columns), split, length=3)
        parts = [data.train, data.validation, data.test]
        assert sum(len(set(part.series)) for part in parts) == 8
        assert sum(len(part) for part in parts) == rows * 2
        assert data.batch(data.train).window.shape[1:] == (2, len(data.window))
        authors = [data.panel.series_names[series] for series in data.test.series]
        assert authors == [f"a{row % 8}" for row in data.panel.steps.rows[data.test.first]]
        schools = [data.panel.group_names[group] for group in data.test.group]
        assert schools == [f"s{int(author[1:]) % 4}" for author in authors]


def test_texts_with_many_characters_are_bytes():
    table = pa.table({"text": ["".join(map(chr, range(0x4E00 + row, 0x4E00 + row + 100))) for row in range(300)]})
    assert read_panel(table, Columns(target="text")).columns.kinds["text"] == "bytes"
    characters = read_panel(table, Columns(target="text", kinds={"text": "characters"}))
    assert len(characters.target.categories) == 399


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        (texts(), {"kinds": {"name": "bytes"}, "time": "language", "context": ()}, "time: expected none"),
        (
            texts(),
            {"kinds": {"name": "bytes"}, "inputs": ("language",), "context": ()},
            "inputs: expected at most name",
        ),
        (pa.table({"name": [1.0, 2.0], "language": ["a", "b"]}), {"kinds": {"name": "bytes"}}, "name: expected texts"),
        (pa.table({"name": ["", None], "language": ["a", "b"]}), {}, "name: expected texts, got 2 rows without"),
        (texts(author=[None] * 10), {"series": "author"}, "author: expected a value in each row with a text"),
        (
            texts(author=list("aabbaabbab"), house=[str(row) for row in range(10)]),
            {"series": "author", "group": "house"},
            "house: expected one value for each author",
        ),
    ],
)
def test_what_texts_cannot_have_is_refused(table, columns, message):
    with pytest.raises(ValueError, match=message):
        read_panel(table, Columns(**{"target": "name", "context": ("language",), **columns}))


def test_a_text_with_other_inputs_is_a_class_a_step():
    rows = 60
    table = pa.table({"s": np.arange(rows) // 6, "x": np.arange(rows) * 1.0, "y": list("abcaba") * 10})
    data = prepare(read_panel(table, Columns(target="y", series="s", inputs=("x",))))
    assert (data.target.kind, data.target.per, data.target.classes) == ("category", "step", ("a", "b", "c"))
    batch = data.batch(data.train)
    assert "".join(data.target.classes[code] for code in batch.target[0]) == "abcaba"

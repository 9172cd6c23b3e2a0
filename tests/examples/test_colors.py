"""The example in its small setting; its table; its likelihood by hand."""

import importlib

import pytest
import torch
from tests.examples.running import EXAMPLES, run


@pytest.fixture
def colors(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("colors")


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("colors", tmp_path)
    state, none = (figures[name]["nats a letter"]["seeds"] for name in ("state", "no covariates"))
    gain = figures["state"]["less those of no covariates"]["seeds"]
    assert gain == pytest.approx([a - b for a, b in zip(state, none, strict=True)], abs=1e-6)  # float32
    blind = [found["mean"] for what, found in figures["no covariates"].items() if "nats" in what]
    assert len(set(blind)) == 1, "whatever the covariates"


def test_the_table(colors):
    rows = colors.table()
    assert len(rows) > 1000
    both = [row for row in rows if row["name"] == "olive"]
    assert [row["lists"] for row in both] == [["css4", "xkcd"]] * 2
    assert both[0]["red"] != both[1]["red"], "one name, two colours"
    assert next(row["words"] for row in rows if row["name"] == "dark olive green") == 3
    assert colors.letters(rows)[:, -1].eq(0).all(), "every name has its end"


@pytest.mark.parametrize("where", ["no covariates", "state", "every step"])
def test_the_loss_is_the_mean_over_letters_and_the_end(colors, where):
    torch.manual_seed(0)
    rows = colors.table()[::200]
    model = colors.Namer(rows, where, 8).eval()
    covariates, names = model.covariates.encode(colors.columns(rows)), colors.letters(rows)
    nats = []
    for row, (name, given) in enumerate(zip(names, model(covariates, names[:, :-1]).log_softmax(-1), strict=True)):
        for step in range(len(rows[row]["name"]) + 1):
            nats.append(-given[step, name[step + 1]])
    torch.testing.assert_close(model.loss(covariates, names), torch.stack(nats).mean())


def test_left_open_and_never_seen_are_one_bucket(colors):
    rows = colors.table()
    model = colors.Namer(rows, "state", 8)
    encode = model.covariates.encode
    left_open, never_seen = (encode(colors.columns(rows[:3], words=words))["words"] for words in (None, 17))
    assert torch.equal(left_open, never_seen)
    assert left_open.unique().tolist() == [4]  # after one, two, three and six words

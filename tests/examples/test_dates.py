"""The example in its small setting; the dates it is made of; greedy and beam decoding against an exhaustive search."""

import sys
from datetime import date
from itertools import product
from random import Random

import pytest
import torch
from tests.examples.running import EXAMPLES, run


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("dates", tmp_path)
    assert set(figures) == {"contextual encoder, attention", "contextual encoder", "zero encoder, attention"}
    assert all(0 <= found["exact match, all"]["mean"] <= 1 for found in figures.values())


@pytest.mark.parametrize(
    ("day", "locale", "layout", "text"),
    [
        (date(2001, 5, 3), "en-GB", "the {d}{th} of {month}, {y}", "the 3rd of May, 2001"),
        (date(2011, 6, 11), "en-GB", "{d}{th} {month} {y}", "11th June 2011"),
        (date(1999, 7, 22), "fr-FR", "{weekday} {d} {month} {y}", "jeudi 22 juillet 1999"),
        (date(2023, 2, 1), "es-ES", "{d} de {month} de {y}", "1 de febrero de 2023"),
        (date(2005, 3, 9), "en-US", "{mm}/{dd}/{yy}", "03/09/05"),
        (date(1980, 3, 9), "de-DE", "{d}. {mon}. {yy}", "9. Mär. 80"),
    ],
)
def test_dates_are_written_as_people_write_them(day, locale, layout, text):
    from date_texts import write_date

    assert write_date(day, locale, layout) == text


def test_what_a_text_can_mean():
    from date_texts import readings

    assert readings("3/5/2001") == {date(2001, 3, 5), date(2001, 5, 3)}
    assert readings("22/5/2001") == {date(2001, 5, 22)}
    assert readings("3 mai 2001") == set()


def test_no_day_is_trained_on_and_held_out():
    from date_texts import days

    known, unseen = days()
    assert not set(known) & set(unseen)
    assert len(known) + len(unseen) == 36525
    assert 0.09 < len(unseen) / 36525 < 0.11


@pytest.mark.parametrize("attends", [False, True])
def test_a_wide_beam_is_an_exhaustive_search_and_a_beam_of_one_is_greedy(attends, monkeypatch):
    import dates_model
    from date_texts import write_anyhow
    from dates import batch

    monkeypatch.setattr(dates_model, "SYMBOLS", "1^")
    torch.manual_seed(0)
    model = dates_model.Translator("locale", attends, 8)
    with torch.no_grad():
        model.readout.weight.mul_(8)  # far from uniform, where the greedy path is not the best one
    rng = Random(0)
    inputs = batch([write_anyhow(date(2000 + n, 1 + n, 3 + n), rng) for n in range(6)])
    assert torch.equal(model.beam(*inputs, 1), model.greedy(*inputs))
    paths = torch.tensor(list(product(range(2), repeat=10)))
    chosen = model.beam(*inputs, 2**9)
    for row in range(6):
        one = [part[row : row + 1].expand(len(paths), *part.shape[1:]) for part in inputs]
        given = torch.cat([torch.full((len(paths), 1), 1), paths[:, :-1]], 1)
        with torch.no_grad():
            scores, _ = model(*one, given)
        total = scores.log_softmax(-1).gather(-1, paths[..., None]).sum((1, 2))
        assert torch.equal(chosen[row], paths[total.argmax()])

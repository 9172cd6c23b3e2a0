"""Findings follow the numbers: other numbers, other words; a single seed says nothing."""

import dataclasses
import math
from pathlib import Path

import pytest
from tests.experiments.made_runs import decay_run, every_study, retrieval_run

from contextual_rnn.experiments.config.retrieval import ACCURACY
from contextual_rnn.experiments.report import pages
from contextual_rnn.experiments.report.figures import map_figure
from contextual_rnn.experiments.stats.contrast import contrast
from contextual_rnn.experiments.studies.catalogue import runs_of
from contextual_rnn.experiments.studies.evidence import evidence_of, facts_of
from contextual_rnn.experiments.studies.gain_map import Cell, contrasts, gain_map, map_table

PROSE = Path(__file__).parents[2] / "results" / pages.PROSE

RUNS = every_study()
ONE_SEED = [run for run in RUNS if run.config.seed == 0]


def findings(runs):
    return pages.findings(PROSE, facts_of(runs))


@pytest.fixture(scope="module")
def texts():
    return findings(RUNS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "authors",
            "200 epochs, a context state ends ahead of the zero state in accuracy, 99.10% (99.00% to 99.20%) against",
        ),
        ("authors", "a gain of +29.00 (+29.00 to +29.00) points, and reaches 95 % sooner"),
        ("authors", "95 % sooner (10 (10 to 10) against never (never to never) epochs; 3 seeds)"),
        ("choices", "at its scale. The authors' own start, h alone, wenke2019: a context state ends behind the zero"),
        (
            "map",
            "Under the authors' own start a context state gains over the zero state in 2 (+29.00 points) of 2 cells, "
            "loses in 0",
        ),
        ("map", "Were no state better anywhere, up to 2 of these 8 would gain or lose by chance."),
        (
            "map",
            "a context state gains over the zero state in 0 of 2 cells, loses in 0, and shows no significant "
            "difference in 2;",
        ),
        ("ingredients", "embedding by +20.10 (+20.00 to +20.20) points raise"),
        ("ingredients", "accuracy, bias by \N{MINUS SIGN}9.90"),
        ("ingredients", "layer norm make no significant difference"),
        ("controls", "context of another sequence +1.10"),
        ("table_1", "2.00% (2.00% to 2.00%) at 20 units, 0.10% (0.10% to 0.10%) at 50 units"),
        ("decay", "squared error is below zero's"),
    ],
)
def test_what_the_numbers_say(texts, name, text):
    assert text in texts[name]


def test_there_is_a_finding_for_each_study(texts):
    assert list(texts) == ["authors", "choices", "map", "ingredients", "controls", "table_1", "decay"]


def test_other_numbers_say_otherwise():
    options = {"epochs": 200, "start": "wenke2019", "leaves": "h+a"}
    authors = [run for run in runs_of(RUNS, "retrieval-authors-start") if run.config.state == "zero"]
    worse = [retrieval_run("retrieval-authors-start", "context", seed, 0.6, **options) for seed in range(3)]
    assert "a context state ends behind the zero state" in findings([*authors, *worse])["authors"]
    level = [decay_run("decay-paper", "zero", 0, 1.0), decay_run("decay-paper", "zero", 1, 1.0)]
    level += [decay_run("decay-paper", "normal", 0, 1.1), decay_run("decay-paper", "normal", 1, 0.9)]
    assert "squared error is not significantly different from zero's" in findings(level)["decay"]


def test_a_single_seed_is_no_finding():
    assert findings(ONE_SEED) == {}
    assert findings([dataclasses.replace(run, result=None) for run in RUNS]) == {}


def test_the_map_pairs_states_in_every_cell():
    seen = contrasts(runs_of(RUNS, "map"), "context")
    authors = [cell for cell in seen if cell.start == "wenke2019"]
    assert authors == [Cell("wenke2019", timing, 50, 4) for timing in ("wenke2019", "ba2016")]
    assert seen[authors[1]].gain.estimate == pytest.approx(0.29)
    assert len(map_table(runs_of(RUNS, "map")).rows) == 8


def test_how_often_chance_alone_is_significant():
    """Of all signs that the gains of n seeds may have, the share that a verdict follows."""
    for count in (3, 4, 5, 7):
        significant = 0
        for behind in range(count + 1):
            gains = [-0.1] * behind + [0.1] * (count - behind)
            ours = [retrieval_run("map", "free", seed, 0.5 + gain) for seed, gain in enumerate(gains)]
            theirs = [retrieval_run("map", "zero", seed, 0.5) for seed in range(count)]
            seen = contrast(ours, theirs, ACCURACY)
            significant += math.comb(count, behind) * (seen.verdict != "level")
        assert significant / 2**count == seen.significant_by_chance


def hatched(figure):
    return [patch for axes in figure.axes for patch in axes.patches if patch.get_hatch()]


def test_the_map_is_drawn_with_its_doubts():
    figure = map_figure(gain_map(runs_of(RUNS, "map")))
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("+29.0") == 2
    assert texts.count("not run") == 8 * 9 - 8
    assert len(hatched(figure)) == 4, "the sound start's cells, whose interval holds zero"
    assert len(hatched(map_figure(gain_map(runs_of(ONE_SEED, "map"))))) == 8, "a seed is no interval"
    with pytest.raises(ValueError, match="gains: expected those of one state or more, got none"):
        map_figure({})


def test_tables_have_a_row_for_what_was_run():
    evidence = evidence_of(RUNS)
    ingredients, controls = evidence.explanations
    assert [row[2].partition(",")[0] for row in ingredients.rows][:2] == ["embedding at zero", "bias uniform"]
    assert len(ingredients.rows) == 4
    shuffled = ["the authors' own", "context of another sequence", "3", "71.00% (71.00% to 71.00%)"]
    assert shuffled in [row[:4] for row in controls.rows]
    rows = evidence.table_1.rows
    assert rows[0][:4] == ["fast weights", "epochs 200, timing ba2016", "3", "2.00% (2.00% to 2.00%)"]
    assert rows[0][5] == "-"
    assert evidence_of([]) == ({}, None, [], None)

"""The findings of docs/evidence.md follow the numbers: other numbers, other words; a single seed says nothing."""

import dataclasses
import math
import re
import shlex
from pathlib import Path

import pytest
from tests.experiments.made_runs import decay_run, every_study, retrieval_run
from tests.sentences import crowded, markdown_text

from contextual_rnn.experiments.cli.main import parse
from contextual_rnn.experiments.config.retrieval import ACCURACY
from contextual_rnn.experiments.report import pages
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.report.figures import map_figure
from contextual_rnn.experiments.stats.contrast import contrast
from contextual_rnn.experiments.studies.catalogue import runs_of
from contextual_rnn.experiments.studies.evidence import evidence_of
from contextual_rnn.experiments.studies.gain_map import Cell, contrasts, gain_map, map_table

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "results" / pages.ARTICLE

RUNS = every_study()
ONE_SEED = [run for run in RUNS if run.config.seed == 0]


def article(runs):
    """The text before the tables of the appendix, on one line."""
    return " ".join(pages.article(TEMPLATE, runs, []).partition("## Appendix")[0].split())


@pytest.fixture(scope="module")
def text():
    return article(RUNS)


@pytest.mark.parametrize(
    "finding",
    [
        "a context state passes 95 % accuracy sooner than the zero state. It ends better, too.",
        "| the authors' | (h, A), wenke2019 | context | 10 (10 to 10) | never (never to never) | sooner | 99.10%",
        "| the authors' | h, wenke2019 | free | never (never to never) | never (never to never) | level | 89.50%",
        "squared error of a normal state is below zero's: 0.00085 (0.0008 to 0.0009) against 0.001 (0.001 to 0.001).",
        "- Sound embedding alone: +20.10 (+20.00 to +20.20) points of accuracy.",
        "- No significant difference: layer norm.",
        "- Lower accuracy: bias.",
        "- Better: context, free and context of another sequence.",
        "| The authors' own start | context | 2 | 2 | 0 |",
        "| A sound start | context | 2 | 0 | 0 |",
        "Were no state better anywhere, up to 2 of these 8 cells would differ by chance.",
    ],
)
def test_what_the_numbers_say(text, finding):
    assert finding in text


def test_the_article_begins_with_the_sentences_of_the_report(text):
    assert f"The evidence - {' - '.join(answer(RUNS))} ## The question" in text


def test_other_numbers_say_otherwise():
    options = {"epochs": 200, "start": "wenke2019", "leaves": "h+a"}
    authors = [run for run in runs_of(RUNS, "retrieval-authors-start") if run.config.state == "zero"]
    worse = [retrieval_run("retrieval-authors-start", "context", seed, 0.6, **options) for seed in range(3)]
    assert "The gain in speed did not: there is no significant difference in epochs" in article([*authors, *worse])
    assert "But it ends worse." in article([*authors, *worse])
    level = [decay_run("decay-paper", "zero", 0, 1.0), decay_run("decay-paper", "zero", 1, 1.0)]
    level += [decay_run("decay-paper", "normal", 0, 1.1), decay_run("decay-paper", "normal", 1, 0.9)]
    assert "squared error of a normal state is not significantly different from zero's" in article(level)


@pytest.mark.parametrize("runs", [ONE_SEED, [dataclasses.replace(run, result=None) for run in RUNS], []])
def test_a_single_seed_is_no_finding(runs):
    text = article(runs)
    for finding in (
        "The gain in speed",
        "the squared error of a normal",
        "- Sound",
        "- Better:",
        "| The authors' own start",
    ):
        assert finding not in text


@pytest.mark.parametrize("runs", [RUNS, ONE_SEED])
def test_sentences_hold_few_numbers(runs):
    assert not crowded(markdown_text(pages.article(TEMPLATE, runs, [])), 3)


def test_the_commands_of_the_article_are_commands(text):
    commands = re.findall(r"`contextual-rnn ([^`]+)`", text)
    assert len(commands) > 5
    for command in commands:
        assert parse(shlex.split(command))


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

"""Three sentences for any set of runs: they follow the numbers, name a single seed, and hold few numbers."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from tests.experiments.made_runs import decay_run, every_study, retrieval_run
from tests.sentences import crowded

from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.runs.published import read_results
from contextual_rnn.experiments.studies.answer import findings_of
from contextual_rnn.experiments.studies.catalogue import runs_of, study

PUBLISHED = read_results(Path(__file__).parents[2] / "results")


def retrieval(seeds, *, start="wenke2019", zero=0.7, context=0.99, rises=(10, 10), **options):
    """Runs of the zero and the context state; beside each other seeds differ by a thousandth."""
    return [
        retrieval_run("own", state, seed, accuracy + 0.001 * seed, rise=rise, start=start, **options)
        for seed in range(seeds)
        for state, accuracy, rise in zip(("zero", "context"), (zero, context), rises, strict=True)
    ]


def decay(seeds, zero=0.001, normal=0.002):
    return [
        decay_run("own", state, seed, error)
        for seed in range(seeds)
        for state, error in (("zero", zero), ("normal", normal))
    ]


ANSWERS = [
    (
        retrieval(3),
        0,
        "starting weights a context state learns the retrieval task in 10 epochs, the zero state not in 30.",
    ),
    (
        retrieval(3, context=0.6),
        0,
        "in 30 epochs neither state learns the retrieval task, and a context state ends less",
    ),
    (retrieval(3, zero=0.99, context=0.7), 0, "does not learn the retrieval task in 30 epochs, the zero state does in"),
    (retrieval(3, zero=0.99, rises=(20, 5)), 0, "learns the retrieval task in 5 epochs, the zero state in 20."),
    (retrieval(3, zero=0.99), 0, "the retrieval task no sooner than the zero state, and ends no more accurate."),
    (retrieval(3, zero=0.98), 0, "the retrieval task no sooner than the zero state, and ends more accurate."),
    (retrieval(3), 1, "The accuracy after the last epoch is 99.10% with the context state and 70.10% with the zero"),
    (retrieval(1), 2, "That is one seed of each state, an illustration: repeat it with more."),
    (retrieval(3), 2, "These are medians over 3 seeds, too few for a small difference to be seen."),
    (retrieval(6), 2, "over 6 seeds; a difference is named where its 95 % interval excludes zero."),
    (retrieval(3) + retrieval(3, start="sound", zero=0.99), 0, "; with sound weights there is nothing to gain."),
    (retrieval(3) + retrieval(3, start="sound"), 0, "; with sound weights it learns sooner too."),
    (retrieval(1) + retrieval(1, start="sound", context=0.6), 0, "neither learns it, and it ends less accurate."),
    (retrieval(1) + retrieval(1, start="sound", zero=0.99), 0, "; with sound weights both learn it within 10 epochs."),
    (retrieval(3) + retrieval(3, units=20, context=0.6), 0, "ahead of zero in 1 of 2 settings and behind it in 1."),
    (retrieval(3) + decay(2), 1, "a normal state predicts the next step worse than the zero state; running free its"),
    (retrieval(3) + decay(2), 2, "These are medians over 2 seeds, too few"),
    (decay(2, normal=0.0005), 0, "than the zero state; running free its error is smaller (0.005 against 0.01)."),
    (decay(2, normal=0.001), 0, "as well as the zero state; running free its error is not significantly different"),
    (
        decay(1, normal=0.0005),
        0,
        "predicts the next step better than the zero state; running free its error is smaller",
    ),
    (decay(1)[1:], 0, "Linear cosine decay: 1 run has finished (normal), and no other state beside a zero state"),
    (decay(1)[1:], 2, "A sweep compares: contextual-rnn sweep decay --grid state=zero,normal --seeds 5."),
    (decay(1)[:1], 2, "contextual-rnn sweep decay --grid state=zero,context --seeds 5."),
]


@pytest.mark.parametrize(("runs", "place", "text"), ANSWERS, ids=[text for _, _, text in ANSWERS])
def test_what_the_numbers_say(runs, place, text):
    sentences = answer(runs)
    assert len(sentences) == 3
    assert text in sentences[place]


def test_runs_that_do_not_count_say_nothing():
    unfinished = [dataclasses.replace(run, result=None) for run in retrieval(2)]
    assert answer([]) == answer(unfinished) == []
    assert answer(retrieval(1) + unfinished) == answer(retrieval(1))


def test_the_papers_scale_answers_where_it_is_among_the_runs():
    """Not the map beside it, in which the same states were trained for fewer epochs."""
    runs = every_study()
    paper = runs_of(runs, "retrieval-authors-start", "retrieval-sound-start-h+a")
    (finding, _) = findings_of(runs)
    assert finding.comparisons[0] == findings_of(paper)[0].comparisons[0]
    assert len(finding.comparisons[1].pairs) == 2, "the map's two timings: without a study at the paper's scale"


def studies_alone():
    names = sorted({study(run) for run in PUBLISHED})
    return {
        f"{name}, {'all seeds' if all_seeds else 'one seed'}": [
            run for run in PUBLISHED if study(run) == name and (all_seeds or run.config.seed == 0)
        ]
        for name, all_seeds in itertools.product(names, (True, False))
    }


@pytest.mark.parametrize("runs", [PUBLISHED, *studies_alone().values()], ids=["all", *studies_alone()])
def test_three_sentences_of_few_numbers_from_every_published_study(runs):
    sentences = answer(runs)
    assert len(sentences) == 3
    assert not crowded("\n\n".join(sentences), 3)
    assert all(sentence.endswith(".") and "  " not in sentence for sentence in sentences)

"""Three sentences for any set of runs: they follow the numbers, name a single seed, and hold few numbers."""

import dataclasses
import itertools
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.experiments.made_runs import decay_run, diverged, every_study, retrieval_run
from tests.sentences import crowded

from contextual_rnn.experiments.cli.main import parse
from contextual_rnn.experiments.config import (
    Measure,
    Metric,
    PanelConfig,
    TaskEntry,
    TrainingConfig,
    final,
    registry,
)
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.runs.published import read_results
from contextual_rnn.experiments.studies.answer import findings_of
from contextual_rnn.experiments.studies.catalogue import runs_of, study
from contextual_rnn.experiments.sweeps.grid import combinations, grid_from_words

PUBLISHED = read_results(Path(__file__).parents[2] / "results")


def retrieval(seeds, *, start="wenke2019", zero=0.7, context=0.99, rises=(10, 10), **options):
    """Runs of the zero and the context state; beside each other seeds differ by a thousandth."""
    return [
        retrieval_run("own", state, seed, accuracy + 0.001 * seed, rise=rise, start=start, **options)
        for seed in range(seeds)
        for state, accuracy, rise in zip(("zero", "context"), (zero, context), rises, strict=True)
    ]


def decay(seeds, zero=0.001, normal=0.002, **options):
    return [
        changed(decay_run("own", state, seed, error), **options)
        for seed in range(seeds)
        for state, error in (("zero", zero), ("normal", normal))
    ]


def changed(run, **options):
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **options))


def unfinished(runs):
    return [dataclasses.replace(run, result=None) for run in runs]


@dataclass(frozen=True)
class WaveConfig(TrainingConfig):
    state: str = "my_even"
    units: int = 4
    epochs: int = 2


WAVES = TaskEntry("waves", WaveConfig, print, "Waves", (Metric("error", "error"),), (Measure("error", final("error")),))


@pytest.fixture(autouse=True)
def own_task(monkeypatch):
    monkeypatch.setitem(registry._TASKS, "waves", WAVES)


def own(errors, seeds=2, *, config=WaveConfig, **options):
    """Runs of a task with one measure, of states with these errors."""
    task, name = ("waves", "error") if config is WaveConfig else ("panel", "validation_error")
    return [
        Run(
            Path(f"{state}{seed}"), task, config(state=state, seed=seed, **options), [], {"final": {name: error + seed}}
        )
        for seed in range(seeds)
        for state, error in errors.items()
    ]


UNPAIRED = [run for run in decay(4) if (run.config.state == "zero") == (run.config.seed < 2)]
RATES = decay(2)[1::2] + decay(2, normal=0.001, learning_rate=0.01)[1::2]
TWO_UNITS = retrieval(3) + retrieval(1, units=20, context=0.6)
ANSWERS = [
    (
        retrieval(3),
        0,
        "starting weights a context state learns the retrieval task in 10 epochs, the zero state has not after 30.",
    ),
    (
        retrieval(3, context=0.6),
        0,
        "weights neither state learns the retrieval task in 30 epochs, and a context state ends less accurate.",
    ),
    (retrieval(3, zero=0.99, context=0.7), 0, "does not learn the retrieval task in 30 epochs, the zero state does in"),
    (retrieval(3, zero=0.99, rises=(20, 5)), 0, "learns the retrieval task in 5 epochs, the zero state in 20."),
    (retrieval(3, zero=0.99), 0, "the retrieval task no sooner than the zero state, and ends no more accurate."),
    (retrieval(3, zero=0.98), 0, "the retrieval task no sooner than the zero state, and ends more accurate."),
    (retrieval(3), 1, "The accuracy after the last epoch is 99.10% with the context state and 70.10% with the zero"),
    (retrieval(3) + retrieval(3, start="sound"), 1, "With the authors' starting weights the accuracy after the last"),
    (retrieval(1), 2, "That is one seed of each state, an illustration: repeat it with more seeds."),
    (retrieval(3), 2, "These are medians over 3 seeds, too few for a small difference to be seen."),
    (retrieval(6), 2, "over 6 seeds; a difference is named where its 95 % interval excludes zero."),
    (retrieval(3) + retrieval(3, start="sound", zero=0.99), 0, "; with sound weights there is nothing to gain."),
    (retrieval(3) + retrieval(3, start="sound"), 0, "; with sound weights it learns sooner too."),
    (
        retrieval(3, zero=0.99, rises=(20, 5)) + retrieval(3, start="sound"),
        0,
        "; with sound weights it learns sooner t",
    ),
    (retrieval(3, zero=0.99, rises=(5, 20)) + retrieval(3, start="sound"), 0, "; with sound weights it learns sooner."),
    (retrieval(1) + retrieval(1, start="sound", context=0.6), 0, "neither learns it, and it ends less accurate."),
    (retrieval(1) + retrieval(1, start="sound", zero=0.99), 0, "; with sound weights both learn it within 10 epochs."),
    (
        retrieval(1, context=0.6) + retrieval(1, start="sound", zero=0.99),
        0,
        "and a context state ends less accurate; with sound weights both learn it within 10 epochs.",
    ),
    (TWO_UNITS, 0, "a context state ends ahead of zero in 1 of 2 settings and behind it in the other."),
    (TWO_UNITS, 1, "In the best of them, units 50, the accuracy after the last epoch is 99.10% with the context state"),
    (
        TWO_UNITS,
        2,
        'Of some settings of "The authors\' own start" there is one seed of each state, an illustration; the r',
    ),
    (
        retrieval(3) + retrieval(3, start="sound", context=0.6) + retrieval(3, start="sound", context=0.6, units=20),
        0,
        "; with sound weights it ends behind zero in all settings.",
    ),
    (
        retrieval(3, context=0.7) + retrieval(3, context=0.7, units=20),
        0,
        "ends neither ahead of zero nor behind it in any of 2 settings.",
    ),
    (
        retrieval(3) + decay(2),
        1,
        "a normal state predicts the next step worse than the zero state; over whole curves",
    ),
    (retrieval(3) + decay(2), 2, "These are medians over 2 to 3 seeds, too few"),
    (retrieval(9) + decay(2), 2, "These are medians over 2 to 9 seeds; fewer than six are too few for a small"),
    (
        retrieval(3) + decay(1),
        2,
        'Of "Linear cosine decay" there is one seed of each state, an illustration; the rest are',
    ),
    (decay(2, normal=0.0005), 0, "than the zero state; over whole curves its error is smaller (0.005 against 0.01)."),
    (
        decay(2, normal=0.001),
        0,
        "as well as the zero state; over whole curves its error is not significantly",
    ),
    (
        decay(1, normal=0.0005),
        0,
        "predicts the next step better than the zero state; over whole curves its error is smaller",
    ),
    (decay(3)[:4] + [diverged(run) for run in decay(3)[4:]], 2, "to be seen; 2 runs diverged and do not count."),
    (own({"zero": 3.0, "my_even": 2.0}), 0, 'Waves: the state "my_even" is better than the zero state in error (2.5 '),
    (own({"zero": 3.0, "my_even": 2.0}), 1, "The gain in error over the zero state is 1 (1 to 1)."),
    (
        own({"zero": 3.0, "my_even": 2.0, "odd": 2.5, "bad": 4.0}),
        0,
        'Waves: beside the zero state the error is better with the state "my_even" and the state "odd", '
        'worse with the state "bad".',
    ),
    (
        own({"zero": 3.0, "bad": 5.0, "odd": 4.0}),
        1,
        'The error is 4.5 with the state "odd" and 3.5 with the zero state',
    ),
    (own({"zero": 3.0, "my_even": 2.0, "odd": 2.5}), 1, 'The error is 2.5 with the state "my_even" and 3.5 with the z'),
    (
        own({"zero": 3.0, "even": 2.0, "odd": 5.0}) + own({"zero": 3.0, "even": 1.0, "odd": 2.0}, units=8),
        0,
        'the error is in most of 2 settings better with the state "even", neither with the state "odd".',
    ),
    (
        own({"zero": 3.0, "even": 2.0, "odd": 5.0}) + own({"zero": 3.0, "even": 1.0, "odd": 2.0}, units=8),
        1,
        'In the best of them, units 8, the error is 1.5 with the state "even" and 3.5 with the zero state.',
    ),
    (
        own({"zero": 3.0, "burn_in": 2.0}, config=PanelConfig),
        0,
        "Sequences of a table: the zero state with burn-in is better than the zero state in validation error (2.5",
    ),
    (decay(1)[1:], 0, "Linear cosine decay: 1 run has finished (normal state), and there is no zero state to compare"),
    (decay(1)[1:], 1, "The validation squared error is 0.002 (one seed)."),
    (decay(1)[1:], 2, "To compare states: contextual-rnn sweep decay --grid state=zero,normal --seeds 5"),
    (decay(1)[:1], 0, "1 run has finished (zero state), and there is no other state to compare with."),
    (decay(1, units=8, clip_norm=2.0)[:1], 2, "decay --units 8 --clip-norm 2.0 --grid state=zero,normal --seeds 5"),
    (RATES, 1, "Best with learning rate 0.01: validation squared error 0.001 (2 seeds), against 0.002 with the other."),
    (RATES + decay(1, normal=0.1, units=8)[1:], 1, "Best with learning rate 0.01 and units 128: validation squared er"),
    (UNPAIRED, 0, "4 runs have finished (zero state, normal state), but the zero state shares no seed with others."),
    (
        [*retrieval(1)[:1], *retrieval(1, epochs=60)[1:]],
        0,
        "2 runs have finished (zero state, context state), but the zero state with other settings (epochs).",
    ),
    (
        [*retrieval(1)[:1], *retrieval(1, epochs=60)[1:]],
        1,
        "Best with the context state and epochs 60: validation accuracy 99.00% (one seed).",
    ),
    ([decay(1)[0], diverged(decay(1)[1])], 0, "1 run has finished (zero state), 1 diverged (normal state)."),
    ([diverged(run) for run in decay(2)], 0, "Linear cosine decay: 4 runs diverged (zero state, normal state)."),
    ([diverged(run) for run in decay(2)], 2, "Repeat the runs that diverged with a smaller learning rate."),
    (unfinished(decay(1)), 0, "Linear cosine decay: 2 runs are unfinished (zero state, normal state)."),
    (unfinished(decay(1)), 2, "The command that began an unfinished run goes on with it."),
    (retrieval(1)[:1] + decay(1)[1:], 1, "Linear cosine decay: 1 run has finished (normal state), and there is no"),
    (retrieval(1) + decay(1)[1:], 1, "Linear cosine decay: 1 run has finished (normal state), and there is no"),
    (retrieval(1) + decay(1) + own({"zero": 3.0}), 1, "; the report has more of Waves."),
]


@pytest.mark.parametrize(("runs", "place", "text"), ANSWERS, ids=[text for _, _, text in ANSWERS])
def test_what_the_numbers_say(runs, place, text):
    sentences = answer(runs)
    assert text in sentences[place]
    assert_three_of_few_numbers(sentences)
    assert sentences == answer(runs[::-1]), "the answer does not depend on the order of folders"


def assert_three_of_few_numbers(sentences):
    """A command at the end of a sentence is code, and has no full stop that a shell would take for a part of it."""
    assert len(sentences) == 3
    texts, _, commands = zip(*(sentence.partition("contextual-rnn ") for sentence in sentences), strict=True)
    assert not crowded("\n\n".join(texts), 3)
    for text, command in zip(texts, commands, strict=True):
        assert "  " not in text
        assert text.endswith(": ") if command else text.endswith(".")


def test_a_task_without_a_measure_and_one_with_titles(monkeypatch):
    runs = own({"zero": 3.0, "my_even": 2.0}) + own({"zero": 3.0, "my_even": 4.0}, data_seed=1)
    titles = {"data_seed": {"0": "Old data", "1": "New data"}}
    monkeypatch.setitem(registry._TASKS, "waves", dataclasses.replace(WAVES, titles=titles))
    sentences = answer(runs)
    assert_three_of_few_numbers(sentences)
    assert sentences[0] == (
        'Waves: Old data: the state "my_even" is better than the zero state in error (2.5 against 3.5); '
        'New data: the state "my_even" is worse than the zero state in error.'
    )
    monkeypatch.setitem(registry._TASKS, "waves", dataclasses.replace(WAVES, measures=()))
    sentences = answer(runs)
    assert_three_of_few_numbers(sentences)
    assert '8 runs have finished (zero state, state "my_even"), and the task gives them no measure' in sentences[0]


def test_runs_that_do_not_count_change_nothing():
    assert answer([]) == []
    assert answer(retrieval(1) + unfinished(retrieval(2))) == answer(retrieval(1))


@pytest.mark.parametrize(
    "runs",
    [
        decay(1, units=8, period_input=True)[1:],
        retrieval(1, start="sound", network="lstm", layer_norm=False)[:1],
        own({"my_even": 2.0}, units=8),
        decay(1, learning_rate=0.01)[1:] + decay(1, normal=0.003, units=8)[1:],
    ],
)
def test_the_command_of_the_advice_keeps_the_options_of_the_best_runs(runs):
    configs = advised(runs)
    state, *_ = {run.config.state for run in runs} - {"zero"} or {"context"}
    best = min(runs, key=lambda run: list(run.result["final"].values())[-1]).config
    expected = [dataclasses.replace(best, state=name, seed=seed) for name in ("zero", state) for seed in range(5)]
    assert configs == expected


def advised(runs):
    """The configurations of the sweep that the third sentence names."""
    _, _, words = answer(runs)[2].partition("contextual-rnn ")
    options = parse(shlex.split(words)).task
    return combinations(options.config, grid_from_words(options.grid), options.seeds)


def test_options_that_a_zero_state_refuses_are_not_advised():
    assert advised([changed(run, kl_weight=0.1) for run in decay(1)[1:]]) == advised(decay(1)[1:])


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
    assert_three_of_few_numbers(answer(runs))

"""Runs that diverged count nowhere: in no median, interval, gain, table, picture or sentence."""

import dataclasses

import pytest
from tests.experiments.made_runs import decay_run, diverged, every_study, retrieval_run

from contextual_rnn.experiments.config.decay import DECAY
from contextual_rnn.experiments.config.retrieval import ACCURACY, RETRIEVAL
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report.data import Panel
from contextual_rnn.experiments.report.gather import curves_of
from contextual_rnn.experiments.report.tables import over_seeds
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.stats.measures import one_of_each, values_by_seed
from contextual_rnn.experiments.studies import calibration
from contextual_rnn.experiments.studies.ba2016_table_1 import table_1
from contextual_rnn.experiments.studies.catalogue import AUTHORS, MAP
from contextual_rnn.experiments.studies.catalogue import runs_of as select
from contextual_rnn.experiments.studies.evidence import facts_of
from contextual_rnn.experiments.studies.gain_map import map_table
from contextual_rnn.experiments.studies.start_ablations import (
    accuracy_table,
    by_choice,
    control_table,
    ingredient_table,
)


def runs_of(state, *accuracies, start="sound", **options):
    return [retrieval_run("any", state, seed, value, start=start, **options) for seed, value in enumerate(accuracies)]


@pytest.mark.parametrize("measure", [*RETRIEVAL.measures, *DECAY.measures], ids=lambda m: m.name)
def test_no_measure_counts_a_run_that_diverged(measure):
    make = decay_run if "squared_error" in measure.name else retrieval_run
    runs = [make("any", "zero", seed, 0.99) for seed in range(3)]
    everything = values_by_seed(runs, measure)
    assert set(everything) == {0, 1, 2}
    assert values_by_seed([runs[0], diverged(runs[1]), runs[2]], measure) == {0: everything[0], 2: everything[2]}
    unfinished = dataclasses.replace(runs[1], result=None)
    assert values_by_seed([runs[0], unfinished], measure) == {0: everything[0]}


def test_of_two_runs_of_a_seed_the_one_that_converged_counts():
    (short,), (long,) = runs_of("zero", 0.5, epochs=3, rise=1), runs_of("zero", 0.7, epochs=9)
    for runs in ([short, diverged(long)], [diverged(long), short]):
        assert one_of_each(runs) == [short]
        assert groups_of(runs)[0].runs == [short]
        assert values_by_seed(runs, ACCURACY) == {0: 0.5}
    assert one_of_each([short, long]) == one_of_each([long, short]) == [long]
    unfinished = dataclasses.replace(long, result=None)
    assert one_of_each([unfinished, diverged(short)]) == [diverged(short)]


SAYS = {
    "facts": facts_of,
    "over seeds": lambda runs: over_seeds(groups_of(runs)),
    "accuracies": accuracy_table,
    "map": lambda runs: map_table(select(runs, MAP)),
    "ingredients": lambda runs: ingredient_table(by_choice(runs)),
    "controls": lambda runs: control_table(by_choice(runs)),
    "table 1": table_1,
}


@pytest.mark.parametrize("name", SAYS)
def test_a_seed_that_diverged_changes_no_sentence_and_no_table(name):
    runs = every_study()
    more = [dataclasses.replace(run, config=dataclasses.replace(run.config, seed=9)) for run in runs[: len(runs) // 3]]
    assert SAYS[name]([*runs, *map(diverged, more)]) == SAYS[name](runs) != SAYS[name]([*runs, *more])


def test_the_median_line_leaves_a_run_that_diverged_out():
    runs = runs_of("zero", 0.9, 0.9, 0.1)

    def lines(runs):
        panel = Panel(RETRIEVAL.metrics[0], curves_of(runs, "validation_accuracy"))
        return figures.learning_curve(panel).axes[0].get_lines()

    thin = [line for line in lines(runs) if line.get_linewidth() < 1]
    (bold,) = [line for line in lines([*runs[:2], diverged(runs[2])]) if line.get_linewidth() > 1]
    assert len(thin) == 3
    assert bold.get_ydata()[-1] == 0.9
    stopped = dataclasses.replace(diverged(runs[2]), metrics=runs[2].metrics[:5])
    (bold,) = [line for line in lines([*runs[:2], stopped]) if line.get_linewidth() > 1]
    assert len(bold.get_ydata()) == 31, "nor does it cut the line short"
    alone = lines([diverged(runs[2])])
    assert [line.get_linewidth() < 1 for line in alone] == [True], "it is drawn, without a median"


def test_the_band_of_many_seeds_leaves_them_out_too():
    runs = runs_of("zero", *(0.9 for _ in range(figures.THIN_LINES)))
    bad = [diverged(run) for run in runs_of("zero", *(0.1 for _ in range(2 * figures.THIN_LINES)))]
    panel = Panel(RETRIEVAL.metrics[0], curves_of([*runs, *bad], "validation_accuracy"))
    (band,) = figures.learning_curve(panel).axes[0].collections
    assert band.get_paths()[0].vertices[:, 1][1:31].min() >= 0


def test_calibration_leaves_them_out(tmp_path, monkeypatch):
    row = {"label": calibration.PAPER, "options": dict.fromkeys(calibration.NAMES, 0)}
    monkeypatch.setattr(calibration, "_coverage_of", lambda run: {})
    monkeypatch.setattr(calibration, "_row", lambda group, runs, shares: {**row, "runs": list(runs)})
    runs = [dataclasses.replace(decay_run("a", "normal", seed, 0.1), folder=tmp_path) for seed in range(2)]
    (tmp_path / "weights.safetensors").touch()
    assert calibration.calibration(groups_of([runs[0], diverged(runs[1])])) == [{**row, "runs": [runs[0]]}]


def test_the_verdict_follows_the_interval_not_the_size_of_the_gap():
    for gains, verdict in (((0.001, 0.002, 0.003), "ahead"), ((0.001, -0.002, 0.003), "level")):
        runs = []
        for seed, (value, gain) in enumerate(zip((0.98, 0.99, 0.985), gains, strict=True)):
            for state, accuracy in (("zero", value), ("context", value + gain)):
                runs.append(retrieval_run(AUTHORS, state, seed, accuracy, epochs=200, leaves="h+a", start="wenke2019"))
        (scale,) = facts_of(runs)["scales"].values()
        assert scale.states["context"][0].verdict == verdict

"""Runs that diverged count nowhere: in no median, interval, gain, table, picture or sentence."""

import dataclasses

import pytest
from tests.experiments.made_runs import decay_run, diverged, every_study, retrieval_run

from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report.publish import retrieval_table
from contextual_rnn.experiments.report.tables import over_seeds
from contextual_rnn.experiments.stats.contrast import contrast
from contextual_rnn.experiments.stats.evidence import evidence
from contextual_rnn.experiments.stats.groups import finding, groups_of
from contextual_rnn.experiments.stats.measures import MEASURES, one_of_each, values_by_seed
from contextual_rnn.experiments.studies import calibration
from contextual_rnn.experiments.studies.ba2016_table_1 import table_1
from contextual_rnn.experiments.studies.catalogue import MAP, study
from contextual_rnn.experiments.studies.catalogue import runs_of as select
from contextual_rnn.experiments.studies.findings import findings
from contextual_rnn.experiments.studies.findings_in_short import in_short
from contextual_rnn.experiments.studies.gain_map import map_table
from contextual_rnn.experiments.studies.start_ablations import control_table, ingredient_table

ACCURACY, TO_95, _ = MEASURES["retrieval"]


def runs_of(state, *accuracies, start="sound", **options):
    return [retrieval_run("any", state, seed, value, start=start, **options) for seed, value in enumerate(accuracies)]


@pytest.mark.parametrize("measure", [measure for each in MEASURES.values() for measure in each], ids=lambda m: m.name)
def test_no_measure_counts_a_run_that_diverged(measure):
    make = decay_run if "squared_error" in measure.name else retrieval_run
    runs = [make("any", "zero", seed, 0.99) for seed in range(3)]
    everything = values_by_seed(runs, measure)
    assert set(everything) == {0, 1, 2}
    assert values_by_seed([runs[0], diverged(runs[1]), runs[2]], measure) == {0: everything[0], 2: everything[2]}
    unfinished = dataclasses.replace(runs[1], result=None)
    assert values_by_seed([runs[0], unfinished], measure) == {0: everything[0]}


def test_evidence_and_contrast_count_the_same_runs():
    """A seed that was past 95 % when it diverged is in neither."""
    zero, context = runs_of("zero", 0.97, 0.98, 0.99), runs_of("context", 0.97, 0.98, 1.0)
    context[1] = diverged(context[1])
    rows = {(row.state, row.measure): row for row in evidence(groups_of([*zero, *context]))}
    for measure in MEASURES["retrieval"]:
        seen, row = contrast(context, zero, measure), rows["context", measure.name]
        assert row.seeds == seen.seeds == (0, 2)
        assert (row.gain, row.improvement) == (seen.gain, seen.improvement)
        assert row.value == seen.ours
    only = [*zero, context[0], diverged(context[2])]
    assert {row.seeds for row in evidence(groups_of(only)) if row.state == "context"} == {(0,)}


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
    "findings": findings,
    "in short": in_short,
    "over seeds": lambda runs: over_seeds(groups_of(runs)),
    "finding": lambda runs: finding(groups_of([run for run in runs if study(run) == MAP])),
    "table": retrieval_table,
    "map": lambda runs: map_table(select(runs, MAP)),
    "ingredients": ingredient_table,
    "controls": control_table,
    "table 1": table_1,
}


@pytest.mark.parametrize("name", SAYS)
def test_a_seed_that_diverged_changes_no_sentence_and_no_table(name):
    runs = every_study()
    more = [dataclasses.replace(run, config=dataclasses.replace(run.config, seed=9)) for run in runs[: len(runs) // 3]]
    assert SAYS[name]([*runs, *map(diverged, more)]) == SAYS[name](runs) != SAYS[name]([*runs, *more])


def test_the_median_line_leaves_a_run_that_diverged_out():
    runs = runs_of("zero", 0.9, 0.9, 0.1)
    lines = lambda runs: figures.retrieval_curves(runs).axes[1].get_lines()  # noqa: E731
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
    (band,) = figures.retrieval_curves([*runs, *bad]).axes[1].collections
    assert band.get_paths()[0].vertices[:, 1][1:31].min() >= 0


def test_calibration_leaves_them_out(tmp_path, monkeypatch):
    row = {"label": calibration.PAPER, "options": dict.fromkeys(calibration.NAMES, 0)}
    monkeypatch.setattr(calibration, "_coverage_of", lambda run: {})
    monkeypatch.setattr(calibration, "_row", lambda group, runs, shares: {**row, "runs": list(runs)})
    runs = [dataclasses.replace(decay_run("a", "normal", seed, 0.1), folder=tmp_path) for seed in range(2)]
    (tmp_path / "weights.safetensors").touch()
    assert calibration.calibration(groups_of([runs[0], diverged(runs[1])])) == [{**row, "runs": [runs[0]]}]


def test_the_finding_says_what_the_findings_say():
    """Of several seeds: ahead, behind or neither by the interval, not by the size of the gap alone."""
    options = {"epochs": 200, "leaves": "h+a"}
    level = (0.98, 0.99, 0.985)
    for gains, words in (
        ((0.001, 0.002, 0.003), "ends ahead of"),
        ((0.001, -0.002, 0.003), "is not significantly different from"),
    ):
        runs = []
        for start in ("wenke2019", "sound"):
            name = "retrieval-authors-start" if start == "wenke2019" else "retrieval-sound-start-h+a"
            for seed, (value, gain) in enumerate(zip(level, gains, strict=True)):
                runs.append(retrieval_run(name, "zero", seed, value, start=start, **options))
                runs.append(retrieval_run(name, "context", seed, value + gain, start=start, **options))
        said = finding(groups_of(runs))
        assert said.startswith(
            f"With leaves h+a, timing wenke2019 a context state {words} the zero state in accuracy under the"
        )
        assert f"{words} the zero state under a sound start" in said
        assert "not end ahead" not in said
        for text in findings(runs).values():
            assert f"a context state {words} the zero state in accuracy" in text

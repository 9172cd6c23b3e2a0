"""A comparison from a table to its answer: what it writes, what it says, and that it goes on where it was stopped."""

import contextlib
import dataclasses
import json
import math
import re
from importlib.util import find_spec

import numpy
import pyarrow.parquet
import pytest
import torch
from tests.experiments.compare.small import ARMS, SEEDS, serial, small_comparison, small_plan
from tests.experiments.test_sweep import Serial
from tests.killed import SECONDS

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.compare.calibration import coverage_of
from contextual_rnn.experiments.compare.compare import compare, plan_of_task, run
from contextual_rnn.experiments.compare.planted import COLUMNS, planted_table
from contextual_rnn.experiments.compare.report import render
from contextual_rnn.experiments.compare.winner import Predictor
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.panels import Split
from contextual_rnn.experiments.report.from_weights import trained
from contextual_rnn.experiments.runs.folder import has_weights, read_run, read_runs
from contextual_rnn.experiments.runs.store import Store
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.sweeps import workers
from contextual_rnn.experiments.tasks.panel import DRAWS, draws_below


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "local_workers", lambda count: serial())


def without_seconds(folder):
    return re.sub(r'"seconds": \[[^]]*\]', "", (folder / "answer.json").read_text())


def test_every_arm_gets_the_same_search_and_its_own_best(tmp_path):
    folder, plan, answer = small_comparison()
    search = plan.search()
    assert len(search) == 2 * len(ARMS)
    runs = {name: read_run(folder / "runs" / name) for name in search}
    for arm in ARMS:
        of_arm = [each for each in runs.values() if each.config.state == arm]
        assert sorted(each.config.learning_rate for each in of_arm) == [0.003, 0.03]
        best = min(of_arm, key=lambda each: each.result["final"]["validation_error"])
        chosen = {each.config.learning_rate for each in answer.arms[arm].runs.values()}
        assert chosen == {best.config.learning_rate}
    assert {each.config.seed for each in answer.arms["zero"].runs.values()} == set(range(SEEDS))
    budget = {(each.config.epochs, each.config.batch_size) for each in runs.values()}
    assert len(budget) == 1


def test_the_best_is_chosen_on_the_validation_set_among_states_alone():
    _, plan, answer = small_comparison()
    assert plan.candidates == ["free", "context", "normal"]
    least = min(plan.candidates, key=lambda arm: answer.arms[arm].validation)
    assert answer.best == least
    assert answer.confidence == pytest.approx(1 - 0.05 / 3)


def test_a_planted_context_is_found_and_its_numbers_are_those_of_the_test_set():
    folder, _, answer = small_comparison()
    content = json.loads((folder / "answer.json").read_text())
    assert content["verdict"] == answer.verdict == "helps"
    assert answer.best in ("context", "normal")
    arms = content["arms"]
    zero, best = arms["zero"], arms[answer.best]
    assert content["gain"]["share"]["estimate"] == pytest.approx(1 - best["test_error"] / zero["test_error"])
    assert content["gain"]["share"]["low"] > 0
    assert content["seeds"] == SEEDS
    assert content["series"] == 24
    assert len(zero["test_error_by_step"]) == content["of_steps"] == 8
    assert best["half_life"] > 0
    assert best["p_value"] < 0.2
    assert zero["p_value"] is None
    assert best["nash_sutcliffe"] > zero["nash_sutcliffe"]
    assert best["rmse"] < zero["rmse"]
    assert arms["normal"]["crps"] < zero["crps"]
    assert zero["coverage"] is None
    assert 0 < arms["normal"]["coverage"]["0.882"]["estimate"] <= 1
    assert set(content["over"]) == {"zero", "burn_in", "every_step"}


@pytest.mark.parametrize(("spread", "held"), [(1.0, "all"), (0.3, "few"), (3.0, "many")])
def test_bands_of_draws_hold_what_they_should(spread, held):
    """Draws N(0, spread) of targets N(0, 1), some of which are unknown."""
    _, _, answer = small_comparison()
    arm = answer.arms["normal"]
    generator = torch.Generator().manual_seed(0)
    shape = arm.errors.values.shape
    draws = spread * torch.randn(*shape[:2], DRAWS, shape[2], generator=generator)
    target = torch.randn(shape, generator=generator)
    below = torch.stack([draws_below(*each) for each in zip(draws, target, strict=True)]).numpy()
    below[:, ::3, 2] = numpy.nan
    shares = coverage_of(dataclasses.replace(arm, scores={"draws_below": below}))
    assert list(shares) == pytest.approx([15 / 17, 13 / 17, 9 / 17])
    for nominal, share in shares.items():
        if held == "all":
            assert share.low - 0.05 < nominal < share.high + 0.05
        else:
            assert (share.estimate - nominal) * (-1 if held == "few" else 1) > 0.1
    assert coverage_of(answer.arms["zero"]) == {}


def test_a_draw_that_equals_the_target_counts_half():
    draws, target = torch.tensor([[[1.0], [2.0], [2.0], [3.0]]]), torch.tensor([[2.0]])
    assert draws_below(draws, target).tolist() == [[2.0]]


def test_three_sentences_say_whether_how_much_how_long_and_what_to_use():
    _, _, answer = small_comparison()
    first, second, third = answer.sentences()
    assert first == "A better initial state helps on these data."
    assert re.fullmatch(
        r"The gain of the .* over the zero state is [\d.]+ % of the test error \(95 % interval over 2 seeds and "
        r"24 series, corrected for 3 states: [\d.]+ % to [\d.]+ %\)\.",
        second,
    )
    assert f"use the {answer.title(answer.best)}" in third


def altered(answer, low, estimate, high, **changes):
    share = dataclasses.replace(answer.gain, share=type(answer.gain.share)(estimate, low, high))
    verdict = share.verdict(answer.smallest)
    use = answer.best if verdict == "helps" else "zero"
    return dataclasses.replace(answer, gain=share, verdict=verdict, use=use, **changes)


def test_the_other_verdicts_in_words():
    _, _, answer = small_comparison()
    without = altered(answer, -0.01, 0.0, 0.01)
    assert without.sentences()[0] == "A better initial state does not help on these data."
    assert without.sentences()[2] == "Use the zero state: a gain of 2 % or more is excluded."
    undecided = altered(answer, -0.1, 0.1, 0.3)
    assert undecided.sentences()[0] == "Whether a better initial state helps cannot be decided with these data."
    assert undecided.series_needed() == 96  # an interval half as wide
    assert "about 96 test series" in undecided.sentences()[2]
    assert altered(answer, -0.3, -0.1, 0.1).sentences()[2] == "Use the zero state."
    better = dataclasses.replace(answer.gain, share=type(answer.gain.share)(-0.2, -0.3, -0.1))
    third = altered(answer, 0.1, 0.2, 0.3, over={"every_step": better}).sentences()[2]
    assert "or the zero state, context at every step, whose error is lower still" in third


class Stopping(Serial):
    """Stops the process, as Ctrl-C does, at its `left`-th run."""

    def __init__(self, left):
        self.left = left

    def submit(self, fn, /, *args, **kwargs):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().submit(fn, *args, **kwargs)


def test_stopped_anywhere_it_goes_on_to_the_same_answer(tmp_path):
    options = {"arms": ("free", "context"), "learning_rates": (0.003, 0.03), "steps": 20, "series": 20}
    answers = []
    for name, stops in (("once", ()), ("often", (0, 2, 3, 1))):
        folder = tmp_path / name
        plan = small_plan(tmp_path / "table", **options)
        for stop in stops:
            with pytest.raises(KeyboardInterrupt):
                run(plan, folder, contextlib.nullcontext(Stopping(stop)))
            assert not (folder / "answer.json").exists()
        run(plan, folder, serial())
        answers.append(without_seconds(folder))
    assert answers[0] == answers[1]


def test_finished_runs_are_not_trained_again():
    folder, plan, answer = small_comparison()
    before = without_seconds(folder)
    again = run(plan, folder, contextlib.nullcontext(Stopping(0)))  # nothing is submitted
    assert without_seconds(folder) == before
    assert again.sentences() == answer.sentences()


def test_a_comparison_in_an_object_store(tmp_path, no_pictures):
    place = "memory://comparison/one"
    plan = small_plan(tmp_path, arms=("context",), steps=20, series=20)
    answer = run(plan, place, serial())
    stored = Store(place)
    assert {"answer.json", "report.html", "winner/predictor.json", "winner/model.safetensors"} <= set(stored.names())
    stored.fetch(["report.html"], tmp_path)
    written = (tmp_path / "report.html").read_text()
    assert "memory://comparison/one/winner" in written
    assert main(["report", place]) == 0
    assert "runs.html" in stored.names()
    stored.fetch(["report.html"], tmp_path / "later")
    assert (tmp_path / "later" / "report.html").read_text() == written
    again = run(plan, place, contextlib.nullcontext(Stopping(0)))
    assert again.sentences() == answer.sentences()


def test_a_comparison_on_a_cluster(tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(workers, "CONNECT_SECONDS", SECONDS)
    plan = small_plan(tmp_path / "table", arms=("context",), steps=20, series=20)
    run(plan, tmp_path / "here", serial())
    with LocalCluster(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0", protocol="tcp"
    ) as cluster:
        run(plan, tmp_path / "there", workers.dask_workers(cluster.scheduler_address))
    assert without_seconds(tmp_path / "there") == without_seconds(tmp_path / "here")


def test_data_of_a_package_by_name(tmp_path, capsys):
    words = ["--units", "4", "--learning-rates", "0.01", "--steps", "5", "--seeds", "1", "--arms", "context"]
    out = ["--out", str(tmp_path / "out"), "--dry-run"]
    assert main(["compare", "--demo", *words, *out]) == 0
    demo = capsys.readouterr().out
    assert "949 read, 949 used" in demo
    assert "arms: zero, context" in demo
    assert main(["compare", "countries", *words, *out]) == (find_spec("plotly") is None)


def test_another_table_gives_other_runs(tmp_path):
    one = small_plan(tmp_path / "one", share=0.5)
    other = small_plan(tmp_path / "one", share=0.6)
    assert not set(one.final(one.chosen([]))) & set(other.final(other.chosen([])))


def test_the_winner_is_saved_loaded_and_predicts(tmp_path):
    folder, _, answer = small_comparison()
    predictor = Predictor.from_pretrained(folder / "winner")
    assert predictor.config.state == answer.use
    table = planted_table("context", 0.9, series=6, steps=8, seed=7)
    predictions = predictor.predict(table)
    assert predictions.num_rows == 6 * 8
    assert predictions["row"].to_pylist()[:8] == list(range(3, 11))
    y = table["y"].to_numpy()[predictions["row"].to_numpy()]
    assert numpy.mean((predictions["prediction"].to_numpy() - y) ** 2) < 0.7 * y.var()
    path = tmp_path / "new.parquet"
    pyarrow.parquet.write_table(table.drop_columns(["y"]), path)
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(folder / "winner"), str(path), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 6 * 8 + 1


def test_a_folder_alone_runs_no_code(tmp_path):
    """Neither `predict` nor the report runs the Python file that a folder names."""
    folder, _, _ = small_comparison()
    Predictor.from_pretrained(folder / "winner").save_pretrained(tmp_path)
    content, trap = json.loads((tmp_path / "predictor.json").read_text()), tmp_path / "trap.py"
    trap.write_text("from pathlib import Path\nPath(__file__).with_name('sprung').touch()\n")
    content["model"]["network"] = f"{trap}:network"
    (tmp_path / "predictor.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"network: expected FILE.py:NAME, for .*predictor.json asks to run .*trap.py"):
        Predictor.from_pretrained(tmp_path)
    runs = [run for run in read_runs(folder / "runs") if run.result is not None and has_weights(run)]
    source = next(run for run in runs if run.config.state == "context")
    assert len(trained([], groups_of([source])).diagnoses) == 1
    foreign = dataclasses.replace(
        source, config=dataclasses.replace(source.config, network=content["model"]["network"])
    )
    assert not trained([], groups_of([foreign])).diagnoses
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="network: expected a function network in"):
        Predictor.from_pretrained(tmp_path, network=f"{trap}:network")
    assert (tmp_path / "sprung").exists(), "named by the user"


def test_a_damaged_winner_is_refused_by_name(tmp_path):
    folder, _, _ = small_comparison()
    Predictor.from_pretrained(folder / "winner").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"weights: expected those of the model in .*model\.safetensors"):
        Predictor.from_pretrained(tmp_path)
    (tmp_path / "predictor.json").write_text('{"model": {"units": 0}}')
    with pytest.raises(ValueError, match=r"config: expected the options of a model in .*predictor\.json"):
        Predictor.from_pretrained(tmp_path)


def test_the_report_answers_first_and_has_every_arm():
    folder, plan, answer = small_comparison()
    html = (folder / "report.html").read_text()
    assert html.index(answer.sentences()[2]) < html.index("Every arm")
    for text in (*map(answer.title, ARMS), "Error by step", "Nash-Sutcliffe", "CRPS", "half-life"):
        assert text in html
    assert "from_pretrained" in html
    assert html.count("<svg") == len(set(re.findall(r'<svg role="img" aria-label="([^"]+)"', html))) == 2
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|<!DOCTYPE[^>]*>', "", html)
    assert render(plan, answer, folder) == html


def test_the_command_ends_with_the_three_sentences(tmp_path, in_this_process, capsys, no_pictures):
    path = tmp_path / "planted.csv"
    pyarrow.csv.write_csv(planted_table("context", 0.9, series=20, steps=6, seed=0), path)
    words = [
        "compare", str(path), "--series", "series", "--time", "step", "--target", "y", "--inputs", "x",
        "--context", "z", "--seeds", "2", "--units", "4", "--learning-rates", "0.02", "--steps", "20",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert "arms: zero, free, context, normal, every_step" in dry
    assert "10 runs (0 of the search) of 20 steps: about " in dry
    assert not (tmp_path / "out" / "runs").exists()
    assert main(words) == 0
    answer = json.loads((tmp_path / "out" / "answer.json").read_text())
    assert capsys.readouterr().out.splitlines()[-3:] == answer["sentences"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == answer["verdict"]
    assert main(["results", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "every_step" in printed.out
    assert "left out" not in printed.err
    *_, follows, empty, first, _, _ = printed.out.splitlines()
    assert (follows, empty) == (f"next: contextual-rnn report {tmp_path / 'out'}", "")
    assert first.startswith("Sequences of a table: beside the zero state the validation error is ")
    before = (tmp_path / "out" / "report.html").read_text()
    assert main(["report", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'out' / 'runs.html'}\n"
    assert (tmp_path / "out" / "report.html").read_text() == before


def test_a_data_frame_is_compared_by_the_function(tmp_path, in_this_process, monkeypatch):
    monkeypatch.setattr("contextual_rnn.experiments.compare.compare.local_workers", lambda count: serial())
    answer = compare(
        planted_table("context", 0.9, series=20, steps=6, seed=0), "y", series="series", time="step", inputs=["x"],
        context=["z"], seeds=2, units=[4], learning_rates=[0.02], steps=20, arms=["context"], out=tmp_path,
    )  # fmt: skip
    assert set(answer.arms) == {"zero", "context"}
    assert (tmp_path / "table.parquet").is_file()
    assert (tmp_path / "winner" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["report.html", "answer.json", "winner/model.safetensors"])
def test_a_folder_with_a_report_of_something_else_is_refused_and_kept(name, tmp_path, capsys):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / "sweep.json").write_text("{}")  # of a sweep into this folder; that of a comparison is in runs
    before = sorted(tmp_path.rglob("*"))
    message = f"out: expected a new folder or one of a comparison, got {name} of something else in {tmp_path}"
    with pytest.raises(ValueError, match=message):
        compare(planted_table("context", 0.9, series=20, steps=6, seed=0), "y", series="series", out=tmp_path)
    assert main(["compare", "decay", "--seeds", "1", "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("target", ["class of a series", "number of a series"])
def test_one_value_a_series_has_no_steps(target, tmp_path):
    from tests.experiments.compare.test_panel_task import RAGGED, ragged_table

    plan = small_plan(tmp_path, columns=RAGGED, table=ragged_table(target), arms=("context",), steps=20)
    answer = run(plan, tmp_path / "out", serial())
    content = json.loads((tmp_path / "out" / "answer.json").read_text())
    assert content["steps"] is None
    assert "steps" not in answer.sentences()[2]
    assert "Error by step" not in (tmp_path / "out" / "report.html").read_text()


def test_series_of_a_group_are_one_when_the_split_is_by_group(tmp_path):
    table = planted_table("context", 0.9, series=40, steps=6, seed=0)
    groups = [f"site {number // 4}" for number in table["series"].to_pylist()]
    table = table.append_column("site", [groups])
    columns = dataclasses.replace(COLUMNS, group="site")
    plan = small_plan(tmp_path, columns=columns, table=table, arms=("context",), steps=20, split=Split("group"))
    answer = run(plan, tmp_path / "out", serial())
    assert answer.gain.series == 2  # of ten sites
    assert len(answer.by_group) == 2
    by_series = small_plan(tmp_path, columns=columns, table=table, arms=("context",), steps=20)
    assert run(by_series, tmp_path / "out", serial()).gain.series == 8


@pytest.mark.parametrize(
    "config",
    [
        DecayConfig(samples_per_period=8, units=4, epochs=1),
        RetrievalConfig(train_samples=8, validation_samples=8, units=4, epochs=1, pairs=1),
    ],
)
def test_the_papers_tasks_take_the_same_path(config, tmp_path):
    plan = plan_of_task(config, 2)
    answer = run(plan, tmp_path, serial())
    content = json.loads((tmp_path / "answer.json").read_text())
    assert set(content["arms"]) == {"zero", "free", "context", "normal"} & set(plan.arms)
    assert content["series"] >= 8
    assert math.isfinite(content["gain"]["share"]["estimate"])
    assert "Every arm" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "winner").exists()
    assert answer.verdict in ("helps", "does not help", "cannot be decided")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare"], "table: expected a table, the name of a task, or --demo, got none"),
        (["compare", "a.csv", "--demo"], "table: expected a table, the name of a task, or --demo, got a.csv"),
        (["compare", "a.csv"], "target: expected the column to predict, got none"),
        (["compare", "a.csv", "--target", "y", "--kinds", "y"], "kinds: expected COLUMN=KIND, got 'y'"),
        (
            ["compare", "a.csv", "--target", "y", "--kinds", "y=category", "y=quantity"],
            "kinds: expected every column once, got y as category and quantity",
        ),
        (["compare", "nowhere.csv", "--target", "y"], "nowhere.csv"),
        (["compare", "decay", "--steps", "9"], "steps: expected none beside the task decay, which has options of its"),
        (["compare", "--demo", "--target", "y"], "target: expected none beside the data colors, whose columns are kno"),
    ],
)
def test_commands_that_are_refused(words, message, capsys):
    assert main(words) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds: expected"),
        ({"steps": 0}, "steps: expected"),
        ({"arms": ("magic",)}, "arms: expected some of zero, burn_in, free"),
        ({"arms": ("every_step",)}, "arms: expected zero and at least one other state"),
    ],
)
def test_options_that_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        small_plan(tmp_path, **options)

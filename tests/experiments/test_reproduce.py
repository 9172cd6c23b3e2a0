"""Reproducing the paper: the right runs, all of them, and a report at the end."""

import dataclasses
import multiprocessing
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tests.sentences import crowded

from contextual_rnn.experiments import reproduce as module
from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.reproduce import reproduce, runs_of
from contextual_rnn.experiments.runs.folder import read_run, read_runs


def tiny_runs(preset):
    return {
        name: dataclasses.replace(config, epochs=1, **TINY[type(config)]) for name, config in runs_of(preset).items()
    }


TINY = {
    RetrievalConfig: {"train_samples": 64, "validation_samples": 32, "units": 8},
    DecayConfig: {"samples_per_period": 8, "units": 8},
}


def test_paper_preset_has_the_papers_settings():
    runs = runs_of("paper").values()
    retrieval = [config for config in runs if isinstance(config, RetrievalConfig) and config.start == "wenke2019"]
    assert {config.state for config in retrieval} == {"zero", "free", "context"}
    for config in retrieval:
        assert (config.epochs, config.batch_size, config.learning_rate) == (200, 128, 0.001)
        assert (config.train_samples, config.validation_samples) == (100_000, 20_000)
        assert (config.units, config.pairs, config.leaves, config.timing) == (50, 4, "h+a", "wenke2019")
    decay = [config for config in runs if isinstance(config, DecayConfig)]
    assert {(config.state, config.seed) for config in decay} == {("zero", 0), ("normal", 0)}
    for config in decay:
        assert (config.epochs, config.batch_size, config.learning_rate) == (65, 128, 0.0002)
        assert (config.units, config.context_units, config.samples_per_period) == (128, 50, 1000)


def test_quick_preset_shows_the_papers_figure_and_the_sound_start_beside_it():
    runs = [config for config in runs_of("quick").values() if isinstance(config, RetrievalConfig)]
    authors = [config for config in runs if config.start == "wenke2019"]
    assert {config.state for config in authors} == {"zero", "free", "context"}
    assert all((config.epochs, config.train_samples, config.leaves) == (30, 100_000, "h+a") for config in authors)
    assert {config.state for config in runs if config.start == "sound"} >= {"zero", "context"}


def test_two_cores_stay_busy_through_the_paper_preset():
    """By the seconds that each run took alone on one core: in the order given, no core waits long for the other."""
    seconds = {"context": 690, "free": 420, "zero": 265}  # the authors' start
    ends = [0.0, 0.0]
    for name, config in runs_of("paper").items():
        alone = 110 if name.startswith("decay") else seconds[config.state] * config.epochs / 200
        ends[ends.index(min(ends))] += alone
    assert max(ends) < 1.05 * sum(ends) / 2


@pytest.mark.parametrize(
    ("target", "extras"), [("reproduce", ["experiments"]), ("install", ["experiments", "test,lint"])]
)
def test_make_installs_what_a_target_needs(target, extras):
    words = ["make", "--always-make", "--dry-run", "--no-print-directory", target]
    lines = subprocess.run(words, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True).stdout
    assert re.findall(r"\[([a-z,]+)\]", lines) == extras
    assert lines.count("--editable") == 1, "the kernel is built once"


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset: expected one of quick, paper"):
        runs_of("slow")


def test_reproduce_trains_everything_and_writes_the_report(tmp_path, monkeypatch, request):
    monkeypatch.setattr(module, "runs_of", tiny_runs)
    report = reproduce("quick", tmp_path, workers=2)
    assert report == tmp_path / "report.html"
    finished = {run.folder for run in read_runs(tmp_path) if run.result is not None}
    assert finished == {tmp_path / name for name in runs_of("quick")}
    results = {folder: (folder / "result.json").read_bytes() for folder in finished}
    for quick in ("no_pictures", "quick_workers"):
        request.getfixturevalue(quick)
    reproduce("quick", tmp_path, workers=1)
    assert results == {folder: (folder / "result.json").read_bytes() for folder in finished}, "finished runs are kept"
    request.getfixturevalue("capsys").readouterr()
    assert main(["reproduce", "--out", str(tmp_path), "--workers", "2"]) == 0
    lines = request.getfixturevalue("capsys").readouterr().out.splitlines()
    assert lines[0].startswith("Does a recurrent network learn better where its first state is not zero?")
    assert "Left to train: 0 runs, 1 side by side, about 0 min." in lines
    assert lines[-3:] == answer(read_runs(tmp_path))
    assert f"report: {report}" in lines[-10:], "with the path of the report near the end"
    assert any(line.startswith("next: contextual-rnn ") for line in lines[-10:])


def test_a_dry_run_says_what_and_why_before_it_estimates_how_long(tmp_path, monkeypatch, capsys):
    before = []

    def estimated(configs):
        before.append(capsys.readouterr().out)
        return [20.0 * config.epochs for config in configs]

    monkeypatch.setattr(module, "runs_of", tiny_runs)
    monkeypatch.setattr(module, "estimated_seconds", estimated)
    assert main(["reproduce", "--dry-run", "--out", str(tmp_path), "--workers", "2"]) == 0
    (text,) = before
    assert text.startswith("Does a recurrent network learn better where its first state is not zero?")
    assert not crowded(text.replace("\n", "\n\n"), 3)
    assert capsys.readouterr().out.strip() == "Left to train: 7 runs, 2 side by side, about 2 min."
    assert not list(tmp_path.iterdir()), "nothing is trained"


def test_a_failing_run_does_not_take_the_others_along(tmp_path, monkeypatch, quick_workers, no_pictures):
    monkeypatch.setattr(module, "runs_of", tiny_runs)
    first, *others = tiny_runs("quick")
    (tmp_path / first).mkdir(parents=True)
    (tmp_path / first / "thesis.tex").write_text("years of work")
    with pytest.raises(RuntimeError, match=f"1 of {1 + len(others)} runs failed, the report is in .*{first}"):
        reproduce("quick", tmp_path, workers=2)
    assert all(read_run(tmp_path / name).result is not None for name in others)
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / first / "thesis.tex").read_text() == "years of work"


def test_a_killed_process_takes_no_other_run_along(tmp_path, monkeypatch, quick_workers, no_pictures):
    monkeypatch.setattr(module, "runs_of", tiny_runs)
    epochs, killed = module._epochs, []

    def kill_once(path):
        children = multiprocessing.active_children()
        if not killed and children:
            killed.append(children[0].pid)
            os.kill(killed[0], signal.SIGKILL)
        return epochs(path)

    monkeypatch.setattr(module, "_epochs", kill_once)
    reproduce("quick", tmp_path, workers=2)
    assert killed
    assert all(run.result is not None for run in read_runs(tmp_path)), "another process has gone on with its run"

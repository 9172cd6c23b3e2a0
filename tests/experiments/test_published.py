"""What is kept under results/ is what was measured, and the README's figures are made of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.published import publish, read_published, retrieval_table
from contextual_rnn.experiments.results import Run

RESULTS = sorted((Path(__file__).parents[2] / "results").glob("retrieval-sound-*.json"))
README = Path(__file__).parents[2] / "README.md"


def run_of(state, seed, accuracies, *, finished=True):
    config = RetrievalConfig(state=state, seed=seed, epochs=len(accuracies) - 1)
    metrics = [{"epoch": e, "step": 9 * e, "validation_accuracy": a} for e, a in enumerate(accuracies)]
    for line in metrics[1:]:
        line["train_loss"] = 0.123456789
    result = {"final": metrics[-1], "seconds": 1.5, "parameters": 7, "command": f"contextual-rnn train --out a/{seed}"}
    return Run(Path(f"a/{seed}"), "retrieval", config, metrics, {**result, "versions": {}} if finished else None)


RUNS = [run_of("zero", 0, [0.1, 0.2, 0.9]), run_of("zero", 1, [0.1, 0.3, 0.7]), run_of("context", 0, [0.1, 0.95, 1.0])]


def test_reads_back_what_it_wrote(tmp_path):
    publish([*RUNS, run_of("zero", 2, [0.1, 0.2], finished=False)], tmp_path / "some.json")
    found = {(run.config.state, run.config.seed): run for run in read_published(tmp_path / "some.json")}
    assert len(found) == 3, "unfinished runs are no results"
    for run in RUNS:
        copy = found[run.config.state, run.config.seed]
        assert (copy.config, copy.result, copy.folder, copy.task) == (run.config, run.result, run.folder, run.task)
        assert [line["validation_accuracy"] for line in copy.metrics] == [
            line["validation_accuracy"] for line in run.metrics
        ]
        assert copy.metrics[0].keys() == {"epoch", "validation_accuracy"}
        assert copy.metrics[2] == {"epoch": 2, "validation_accuracy": run.metrics[2]["validation_accuracy"]} | {
            "train_loss": 0.12346
        }


@pytest.mark.parametrize("accuracies", [[], [0.1], [0.1, 0.5]])
def test_a_diverged_run_is_kept_whenever_it_stopped(tmp_path, accuracies):
    run = run_of("zero", 2, [0.1, 0.2, 0.3])
    metrics = run.metrics[: len(accuracies)]
    diverged = replace(run, metrics=metrics, result={**run.result, "final": {}, "diverged": "loss is not finite"})
    publish([diverged, *RUNS], tmp_path / "some.json")
    found = read_published(tmp_path / "some.json")
    assert [run.converged for run in found].count(False) == 1
    *_, row = retrieval_table([tmp_path / "some.json"]).splitlines()
    assert "80.00% (70.00% to 90.00%)" in row


def test_nothing_to_publish(tmp_path):
    with pytest.raises(ValueError, match="runs: expected finished runs, got none"):
        publish([run_of("zero", 2, [0.1, 0.2], finished=False)], tmp_path / "some.json")


def test_a_table_has_medians_with_intervals(tmp_path):
    publish(RUNS, tmp_path / "some.json")
    *_, row = retrieval_table([tmp_path / "some.json"]).splitlines()
    assert row == "| sound | h, wenke2019 | 2 | 1 to 2 | 80.00% (70.00% to 90.00%) |  | 100.00% |"


def test_the_readme_shows_the_results():
    """Regenerate with: python -m contextual_rnn.experiments.published table --files results/retrieval-sound-*.json"""
    assert RESULTS
    header, _, *rows = retrieval_table(RESULTS).splitlines()
    for line in (header, *rows):
        assert line in README.read_text()


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_every_result_says_how_it_was_made(file):
    for run in read_published(file):
        assert run.result is not None
        assert run.result["command"].startswith(f"contextual-rnn train {run.task} ")
        assert run.metrics[-1]["epoch"] == run.config.epochs
        assert json.loads(file.read_text())["runs"]

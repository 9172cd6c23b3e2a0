"""What is kept under results/ is what was measured."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.runs.published import publish, read_results
from contextual_rnn.experiments.stats.tables import markdown
from contextual_rnn.experiments.studies.start_ablations import accuracy_table

RESULTS = [path for path in Path(__file__).parents[2].glob("results/*.json") if '"runs": [' in path.read_text()]


def run_of(state, seed, accuracies, *, finished=True):
    config = RetrievalConfig(state=state, seed=seed, epochs=len(accuracies) - 1)
    metrics = [{"epoch": e, "step": 9 * e, "validation_accuracy": a} for e, a in enumerate(accuracies)]
    for line in metrics[1:]:
        line |= {"train_loss": 0.123456789, "seconds": 4.5}
    result = {"final": metrics[-1], "seconds": 1.5, "parameters": 7, "command": f"contextual-rnn train --out a/{seed}"}
    return Run(Path(f"a/{seed}"), "retrieval", config, metrics, {**result, "versions": {}} if finished else None)


RUNS = [run_of("zero", 0, [0.1, 0.2, 0.9]), run_of("zero", 1, [0.1, 0.3, 0.7]), run_of("context", 0, [0.1, 0.95, 1.0])]


def test_reads_back_what_it_wrote(tmp_path):
    publish([*RUNS, run_of("zero", 2, [0.1, 0.2], finished=False)], tmp_path / "some.json")
    found = {(run.config.state, run.config.seed): run for run in read_results(tmp_path)}
    assert len(found) == 3, "unfinished runs are no results"
    for run in RUNS:
        copy = found[run.config.state, run.config.seed]
        assert (copy.config, copy.result, copy.folder, copy.task) == (run.config, run.result, run.folder, run.task)
        assert [line["validation_accuracy"] for line in copy.metrics] == [
            line["validation_accuracy"] for line in run.metrics
        ]
        assert copy.metrics[0].keys() == {"epoch", "validation_accuracy"}
        assert copy.metrics[2] == {"epoch": 2, "validation_accuracy": run.metrics[2]["validation_accuracy"]}


@pytest.mark.parametrize("accuracies", [[], [0.1], [0.1, 0.5]])
def test_a_diverged_run_is_kept_whenever_it_stopped(tmp_path, accuracies):
    run = run_of("zero", 2, [0.1, 0.2, 0.3])
    assert run.result is not None
    metrics = run.metrics[: len(accuracies)]
    diverged = replace(run, metrics=metrics, result={**run.result, "final": {}, "diverged": "loss is not finite"})
    publish([diverged, *RUNS], tmp_path / "some.json")
    found = read_results(tmp_path)
    assert [run.converged for run in found].count(False) == 1
    *_, row = markdown(accuracy_table(found)).splitlines()
    assert "80.00% (70.00% to 90.00%)" in row


def test_results_prints_of_published_files_what_the_report_says(tmp_path, capsys, no_pictures):
    publish(RUNS, tmp_path / "some.json")
    assert main(["results", str(tmp_path)]) == 0
    sentences = capsys.readouterr().out.splitlines()[-3:]
    assert sentences == answer(read_results(tmp_path))
    assert main(["report", str(tmp_path)]) == 0
    assert all(sentence in (tmp_path / "report.html").read_text() for sentence in sentences)
    for command in ("results", "report"):
        assert main([command, str(tmp_path / "some.json")]) == 1
        assert "folder: expected a folder with runs or published results, got the file" in capsys.readouterr().err


def test_nothing_to_publish(tmp_path):
    with pytest.raises(ValueError, match="runs: expected finished runs, got none"):
        publish([run_of("zero", 2, [0.1, 0.2], finished=False)], tmp_path / "some.json")


def test_a_table_has_medians_with_intervals(tmp_path):
    publish(RUNS, tmp_path / "some.json")
    *_, row = markdown(accuracy_table(read_results(tmp_path))).splitlines()
    assert row == "| sound | h, wenke2019 | 2 | 1 to 2 | 80.00% (70.00% to 90.00%) |  | 100.00% (one seed) |"


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_every_result_says_how_it_was_made(file, tmp_path):
    shutil.copy(file, tmp_path)
    for run in read_results(tmp_path):
        assert run.result is not None
        assert run.result["command"].startswith(f"contextual-rnn train {run.task} ")
        assert run.metrics[-1]["epoch"] == run.config.epochs


def test_runs_of_other_epochs_stand_in_other_lines():
    rows = accuracy_table([run_of("zero", 0, [0.1, 0.5]), run_of("zero", 0, [0.1, 0.5, 0.75])]).rows
    assert [row[2:5] for row in rows] == [["2", "1", "75.00% (one seed)"], ["1", "1", "50.00% (one seed)"]]


def test_a_whole_path_is_told_from_the_folder_of_runs(tmp_path):
    run = run_of("zero", 0, [0.1, 0.5])
    assert run.result is not None
    swept = replace(run, result={**run.result, "command": "contextual-rnn train retrieval --out /home/me/runs/map/a"})
    publish([swept], tmp_path / "map.json")
    (found,) = read_results(tmp_path)
    assert found.result["command"] == "contextual-rnn train retrieval --out runs/map/a"
    assert found.folder == Path("runs/map/a")

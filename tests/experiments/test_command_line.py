"""The console command, end to end on tiny runs."""

import contextlib
import csv
import errno
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import contextual_rnn
from contextual_rnn.experiments.cli.main import _words, main
from contextual_rnn.experiments.cli.program import print_answer, program
from contextual_rnn.experiments.runs.folder import read_run

TINY_DECAY = ["--samples-per-period", "8", "--units", "8", "--epochs", "1"]
TINY_RETRIEVAL = ["--train-samples", "64", "--validation-samples", "32", "--pairs", "2", "--epochs", "1"]


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "folder", "state"),
    [
        (["retrieval", "--state", "free", "--leaves", "h+a", *TINY_RETRIEVAL], "retrieval-free-seed0", "free"),
        (["decay", *TINY_DECAY], "decay-normal-seed0", "normal"),
    ],
)
def test_train_writes_a_run(in_tmp_path, capsys, arguments, folder, state):
    assert main(["train", *arguments]) == 0
    run = read_run(Path("runs") / folder)
    assert run.config.state == state
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[0]) == run.result["final"]
    assert printed[1] == f"run: {Path('runs') / folder}"
    # The command that the result names trains the same run elsewhere.
    again = run.result["command"].split()[1:-1]
    assert main([*again, "again"]) == 0
    assert (Path("again") / "weights.safetensors").read_bytes() == (run.folder / "weights.safetensors").read_bytes()


def test_a_folder_with_another_run_is_refused(in_tmp_path, capsys):
    assert main(["train", "decay", *TINY_DECAY, "--out", "run"]) == 0
    assert main(["train", "decay", *TINY_DECAY, "--out", "run", "--seed", "5"]) == 1
    assert "differs in seed" in capsys.readouterr().err


def test_generate_writes_picture_and_numbers(in_tmp_path, capsys):
    main(["train", "decay", *TINY_DECAY, "--out", "run"])
    assert main(["generate", "run", "--initial", "2.5", "--period", "1.25", "3", "--samples", "4"]) == 0
    assert (Path("run") / "trajectories.svg").read_text().lstrip().startswith("<?xml")
    with open("run/trajectories.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 26
    assert {row["period"] for row in rows} == {"1.25", "3.0"}
    assert {float(row["x"]) for row in rows if row["t"] == "0"} == {2.5}
    ends = {row["x"] for row in rows if row["t"] == "25" and row["period"] == "3.0"}
    assert len(ends) == 4, "samples differ"

    assert main(["generate", "run", "--samples", "4", "--mean", "--out", "elsewhere/v1.mean"]) == 0
    with open("elsewhere/v1.mean.csv") as file:
        ends = {row["x"] for row in csv.DictReader(file) if row["t"] == "25" and row["period"] == "3.0"}
    assert len(ends) == 1, "with the mean state all trajectories coincide"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "nowhere"], "folder: expected a run"),
        (["generate", "run", "--initial", "nan"], "initial: expected finite"),
        (["generate", "run", "--period", "inf"], "period: expected finite"),
        (["generate", "run", "--period", "0"], "period: expected positive"),
        (["generate", "run", "--samples", "0"], "rnn: samples: expected a positive int, got 0"),
        (["generate", "run", "--samples", "50001"], "samples: expected at most 100,000 of all periods, got 50,001 for"),
        (["generate", "run", "--period"], "period: expected finite numbers, got none"),
        (["generate", "run", "--out", "run/config.json/x"], "out: expected a folder that is there or can be made, got"),
        (["train", "decay", "--out", "run/config.json"], "got run/config.json: run/config.json is a file"),
        (["train", "decay", "--out", "foo://b"], "folder: expected a path or a URL that fsspec opens, got foo://b"),
        (["train", "decay", "--threads", "99999"], "threads: expected at most 4096, got 99999"),
        (["sweep", "decay", "--out", "run/config.json/x", "--dry-run"], "/config.json is a file"),
        (["sweep", "decay", "--checkpoint-seconds", "-1"], "n: checkpoint_seconds: expected a number of at least 0"),
        (["sweep", "decay", "--grid-file", "none.toml"], "file: expected a file that can be read in none.toml"),
        (["sweep", "decay", "--scheduler", "x"], "scheduler: expected an address such as tcp://host:8786, got x"),
        (["reproduce", "--out", "run/config.json", "--dry-run"], "out: expected a folder"),
        (["results", "run", "--out", "run"], "out: expected a file, got run, which is a folder"),
        (["results", "run", "--out", "x.csv"], "out: expected a file that ends in .parquet or .pq, got 'x.csv'"),
        (["predict", "run", "x.csv", "--out", "x.txt"], "out: expected a file that ends in .parquet, .pq or .csv, got"),
        (
            ["predict", "run", "x.csv"],
            "folder: expected the folder winner of a comparison, with predictor.json, got run",
        ),
        (["predict", "run", "x.csv", "--out", "run/config.json/x.csv"], "out: expected a folder"),
        (["generate", "retrieval"], "run: expected a run of the decay task"),
        (["report", "nowhere"], "folder: expected runs"),
        (["train", "retrieval", "--pairs", "27"], "pairs: expected at most"),
        (["trian"], "command: expected one of reproduce, train, "),
        (["trian"], "got 'trian'; did you mean train?"),
        (
            ["sweep", "dekay"],
            "task: expected one of retrieval, decay, panel or a FILE.py with one, got 'dekay'; did you mean decay?",
        ),
        (["train", "nofile.py"], "contextual-rnn: task: expected a Python file that registers a task, got nofile.py"),
        (["sweep", "decay", "--stack", "0"], "stack: expected a positive int, got 0"),
        (["sweep", "decay", "--workers", "0", "--dry-run"], "workers: expected a positive int, got 0"),
        (["reproduce", "--workers", "-1", "--dry-run"], "workers: expected a positive int, got -1"),
        (["sweep", "decay", "--retries", "-1"], "retries: expected an int of at least 0, got -1"),
        (["train", "decay", "--units", "five"], "--units: expected an int, got 'five'"),
        (["sweep", "decay", "--seeds", "1.5"], "--seeds: expected an int, got '1.5'"),
        (["train", "retrieval", "--alphabet-size", "x"], "--alphabet-size: expected an int, got 'x'"),
        (["generate", "run", "--period", "2", "x"], "--period: expected a number, got 'x'"),
        (["train", "decay", "--unit", "3"], "Unrecognized options: --unit, 3; did you mean --units?"),
        (["train", "retrieval", "--rows-of-the-table", "3"], "Unrecognized options: --rows-of-the-table, 3 See con"),
        (["train", "decay", "--state", "warm"], "invalid choice 'warm' for argument '--state'. Expected one of"),
        (["report"], "FOLDER"),
        (["predict"], "TABLE"),
    ],
)
def test_refusals_are_one_line_and_a_status(in_tmp_path, capsys, arguments, message):
    main(["train", "decay", *TINY_DECAY, "--out", "run"])
    main(["train", "retrieval", *TINY_RETRIEVAL, "--out", "retrieval"])
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as exit:  # options that no dataclass accepts are refused while they are read
        status = exit.code
    assert status not in (0, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("contextual-rnn: ")
    assert message in line


def test_a_file_that_cannot_be_used_is_named_without_a_number():
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x")
    assert _words(error) == "path: expected one that can be read or written, got /proc/x: No such file or directory"
    assert _words(OSError("on one\nline")) == "on one line"


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["train", "decay", "--state", "warm"], ["zero", "free", "context", "normal"]),
        (["reproduce", "--preset", "slow"], ["quick", "paper"]),
    ],
)
def test_unknown_choices_are_answered_with_those_there_are(capsys, arguments, choices):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code != 0
    shown = "".join(capsys.readouterr())
    assert all(choice in shown for choice in choices)


def test_report_command(in_tmp_path, capsys, no_pictures):
    """Its figures are rendered by the same command in tests/test_readme.py."""
    main(["train", "decay", *TINY_DECAY, "--out", "runs/one"])
    assert main(["report", "runs"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("report: "))
    assert path.is_absolute()
    assert "</html>" in path.read_text()


def test_info_names_versions_and_backends(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "torch", "gpu", "fast weights: reference", "fast weights: attention"):
        assert word in shown


@pytest.mark.parametrize("command", ["reproduce", "train retrieval", "train decay", "report", "generate", "info"])
def test_help_says_what_every_option_does(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command.split(), "--help"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: contextual-rnn" in shown
    if command == "train retrieval":
        for option in ("--state", "--start", "--timing", "--leaves", "--pairs", "--modified", "--seed", "--out"):
            assert option in shown
        assert "c9k8j3f1??k" in shown


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal(environment, coloured):
    """https://no-color.org"""
    terminal, end = pty.openpty()
    words = [sys.executable, "-m", "contextual_rnn.experiments", "train", "decay", "--unts", "5"]
    environment = {name: text for name, text in os.environ.items() if name != "NO_COLOR"} | environment
    process = subprocess.Popen(words, stdout=end, stderr=end, env=environment | {"TERM": "xterm"})
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
        while part := os.read(terminal, 1 << 16):
            shown += part
    os.close(terminal)
    assert process.wait() != 0
    assert b"--unts" in shown
    assert (b"\x1b[" in shown) == coloured


def test_help_imports_no_torch():
    code = """if True:
        import sys
        from contextual_rnn.experiments.__main__ import main
        for command in ("", "reproduce", "train", "train decay", "sweep", "sweep retrieval", "results", "report",
                        "generate", "info"):
            sys.argv = ["contextual-rnn", *command.split(), "--help"]
            try:
                main()
            except SystemExit as exit:
                assert exit.code == 0
            slow = {"torch", "numpy", "scipy", "matplotlib"} & set(sys.modules)
            assert not slow, (command, slow)
        """
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.count("usage: contextual-rnn") == 10


def test_the_command_alone_says_what_to_try(capsys):
    assert main([]) == 0, "as for --help"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  contextual-rnn ")]
    assert len(lines) == 3
    for line in lines:
        words = line.split("   ")[0].split()[1:]
        with pytest.raises(SystemExit) as exit:
            main([*words, "--help"])
        assert exit.value.code == 0


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"contextual-rnn {contextual_rnn.__version__}\n"


def test_a_command_to_type_next_is_found_by_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == "contextual-rnn", "started in another way"
    monkeypatch.setattr(sys, "argv", [".venv/bin/contextual-rnn", "reproduce"])
    assert Path(program()) == Path(".venv/bin/contextual-rnn"), "as make starts it"
    print_answer(["To compare: contextual-rnn sweep decay"])
    assert capsys.readouterr().out == "\nTo compare: .venv/bin/contextual-rnn sweep decay\n"
    (tmp_path / "contextual-rnn").touch(mode=0o755)
    assert program() == "contextual-rnn"


def test_the_installed_command_runs():
    script = Path(sys.executable).with_name("contextual-rnn")
    shown = subprocess.run([script, "info"], capture_output=True, text=True, check=True).stdout
    assert "contextual-rnn" in shown

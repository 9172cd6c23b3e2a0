"""Arguments, networks and tables that a comparison or a prediction refuses before anything is trained, or names."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.experiments.compare.small import serial, small_comparison, small_plan

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.compare.compare import compare, run
from contextual_rnn.experiments.compare.planted import COLUMNS, WINDOW, planted_table
from contextual_rnn.experiments.compare.winner import Predictor
from contextual_rnn.experiments.panels import Columns
from contextual_rnn.experiments.runs.store import Store
from contextual_rnn.experiments.stats.verdict import Errors, gain_by_step, gain_over

HEAD = "from torch import nn\nimport torch\nfrom contextual_rnn import Leaf, StateSpec, state_spec\n"
GRU = "def make(i, u): return nn.GRU({}, batch_first=True)"
OWN = """class Own(nn.Module):
    batch_first = True
    def __init__(self, i, u): super().__init__(); self.u = u; self.l = nn.Linear(i, u)
    def forward(self, x, h): {body}
@state_spec.register
def _(network: Own): return StateSpec(Leaf("h", (network.u,)), input_ndim=3, time_dim=1)
make = Own
"""


@pytest.fixture
def small(tmp_path):
    """The arguments of a small comparison."""
    path = tmp_path / "table.parquet"
    pq.write_table(planted_table("context", 0.9, series=12, steps=4, seed=0), path)
    names = {"series": "series", "time": "step", "inputs": ["x"], "context": ["z"], "arms": ["context"]}
    return {"table": path, "target": "y", **names, "units": [3], "seeds": 1, "steps": 3, "out": tmp_path / "out"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": "x"}, TypeError, "inputs: expected a list of names, got the text 'x'"),
        ({"context": "z"}, TypeError, "context: expected a list of names, got the text 'z'"),
        ({"arms": "context"}, TypeError, "arms: expected a list of values, got 'context'"),
        ({"arms": [1]}, ValueError, "arms: expected some of zero, .*, got 1"),
        ({"units": 16}, TypeError, "units: expected a list of values, got 16"),
        ({"arms": ["context", "context"]}, ValueError, "arms: expected every value once, got context, context"),
        ({"units": [3, 3]}, ValueError, "units: expected every value once, got 3, 3"),
        ({"learning_rates": (0.01, 0.1, 1e-2)}, ValueError, "learning_rates: expected every value once, got 0.01, 0.1"),
        ({"units": []}, ValueError, "units: expected at least one value, got none"),
        ({"learning_rates": 0.1}, TypeError, "learning_rates: expected a list of values, got 0.1"),
        ({"learning_rates": ()}, ValueError, "learning_rates: expected at least one value, got none"),
        ({"smallest_gain": "x"}, TypeError, "smallest_gain: expected a number from 0 to 1, got 'x'"),
        ({"smallest_gain": float("nan")}, ValueError, "smallest_gain: expected a number from 0 to 1, got nan"),
        ({"workers": 0}, ValueError, "workers: expected a positive int, got 0"),
        ({"workers": "2"}, TypeError, "workers: expected a positive int, got '2'"),
        ({"split": "time"}, TypeError, r"split: expected a Split, such as Split\('time'\), or None, got 'time'"),
        ({"out": None}, TypeError, "out: expected a folder or its URL, got None"),
        ({"table": [3]}, TypeError, r"table: expected a path, paths, or a data frame, got \[3\]"),
    ],
)
def test_arguments_are_refused_before_anything_is_trained(arguments, error, message, small):
    with pytest.raises(error, match=message):
        compare(**{**small, **arguments})
    assert not (small["out"] / "runs").exists()


def test_the_command_refuses_its_options_first(small, capsys):
    words = ["compare", str(small["table"]), "--target", "y"]
    assert main([*words, "--smallest-gain", "2"]) == 1
    assert "smallest_gain: expected a number from 0 to 1, got 2" in capsys.readouterr().err
    assert main([*words, "--workers", "-1"]) == 1
    assert "workers: expected a positive int, got -1" in capsys.readouterr().err


def test_the_function_writes_to_a_store(small, monkeypatch):
    monkeypatch.setattr("contextual_rnn.experiments.compare.compare.local_workers", lambda count: serial())
    compare(**{**small, "out": "memory://flaws/one"})
    assert "answer.json" in set(Store("memory://flaws/one").names())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(3)", "network: expected a Python file that runs, got .*SystemExit: 3"),
        ("def make(i): pass", "network: expected a function of the input size and the units .*TypeError"),
        ("def make(i, u): raise KeyError('boo')", "network: expected a function of .*got KeyError: 'boo'"),
        ("def make(i, u): pass", "network: expected one with batch_first=True from .*got None"),
        (GRU.format("i, u, bidirectional=True"), "network: .* reads forwards alone"),
        (GRU.format("i + 1, u"), r"network: .* makes inputs \(1, 2, 1\)"),
        (GRU.format("i, u, dtype=torch.float64"), "network: expected parameters of torch.float32"),
        (GRU.format("i, u, device='meta'"), "network: expected parameters .* on meta"),
        (OWN.format(body="return self.l(x)"), r"network: .* an output \(1, 2, features\) and a state, got ValueError"),
        (OWN.format(body="return self.l(x)[:, -1], h"), r"network: expected an output .*, got \(1, 3\)"),
    ],
)
def test_networks_that_cannot_be_used_are_refused_before_anything_is_trained(code, message, small, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(HEAD + code)
    with pytest.raises(ValueError, match=message):
        compare(**small, network=f"{path}:make")
    words = ["--series", "series", "--time", "step", "--inputs", "x", "--context", "z", "--units", "3", "--dry-run"]
    assert main(["compare", str(small["table"]), "--target", "y", *words, "--network", f"{path}:make"]) == 1
    assert "network: expected" in capsys.readouterr().err


def test_a_changed_file_of_a_network_gives_other_runs(tmp_path):
    path = tmp_path / "mine.py"
    data = []
    for kind in ("GRU", "RNN"):
        path.write_text(f"{HEAD}def make(i, u): return nn.{kind}(i, u, batch_first=True)")
        data.append(small_plan(tmp_path, network=f"{path}:make").base.data)
    assert data[0] != data[1]
    assert small_plan(tmp_path).base.data not in data


def test_a_validation_set_of_one_series_has_no_diagnosis(tmp_path):
    table = planted_table("context", 0.9, series=4, steps=6, seed=0)
    answer = run(small_plan(tmp_path, table=table, arms=("context",), steps=3), tmp_path / "out", serial())
    assert answer.arms["context"].diagnosis is None


def test_an_error_that_is_not_finite_decides_nothing_and_is_not_left_out():
    values = np.random.default_rng(0).random((3, 12, 4)) + 1
    names = [str(place) for place in range(12)]
    infinite = values - 0.5
    infinite[:, 3, 2] = np.inf
    gain = gain_over(Errors(values, names), Errors(infinite, names))
    assert gain.verdict() == "cannot be decided"
    assert np.isnan(gain.share.estimate)
    assert Errors(infinite, names).mean() == np.inf
    both = values.copy()
    both[:, 3, 2] = np.inf
    assert gain_over(Errors(both, names), Errors(infinite, names)).verdict() == "cannot be decided"
    steps = gain_by_step(Errors(values, names), Errors(infinite, names))
    assert [np.isnan(step.low) for step in steps] == [False, False, True, False]


def test_errors_of_values_far_off_are_counted(tmp_path):
    """Squares that single precision does not hold."""
    columns = Columns("y", "s", "t", ("x",), ("c",))
    rng = np.random.default_rng(0)
    series, x, c = np.repeat(np.arange(20), 5), rng.normal(size=100), np.repeat(rng.normal(size=20), 5)
    table = {"s": series, "t": np.tile(np.arange(5), 20), "x": x, "c": c, "y": rng.normal(size=100)}
    plan = small_plan(tmp_path, columns=columns, table=pa.table(table), arms=("context",), steps=3)
    from contextual_rnn.experiments.tasks.panel import data_of

    tested = data_of(plan.base).panel.series_names[data_of(plan.base).test.series[0]]
    table["y"][np.flatnonzero(series == tested)[0]] = 1e30
    (tmp_path / "far").mkdir()
    plan = small_plan(tmp_path / "far", columns=columns, table=pa.table(table), arms=("context",), steps=3)
    answer = run(plan, tmp_path / "far", serial())
    assert 1e58 < answer.arms["zero"].errors.mean() < np.inf


def test_the_warnings_of_a_table_are_in_the_answer(tmp_path, monkeypatch, capsys):
    table = planted_table("context", 0.9, series=20, steps=4, seed=0)
    table = table.append_column("copy", pa.array(3 * table["y"].to_numpy() + 1))
    plan = small_plan(
        tmp_path, table=table, columns=dataclasses.replace(COLUMNS, inputs=("x", "copy")), arms=("context",), steps=3
    )
    answer = run(plan, tmp_path, serial())
    content = json.loads((tmp_path / "answer.json").read_text())
    assert content["warnings"] == list(answer.warnings)
    assert any(warning.startswith("copy: possible leak") for warning in content["warnings"])
    assert content["rows"] == {"read": len(table), "used": len(table), "left out": {}}
    pq.write_table(table, tmp_path / "leak.parquet")
    monkeypatch.setattr("contextual_rnn.experiments.sweeps.workers.local_workers", lambda count: serial())
    words = [
        "--series",
        "series",
        "--time",
        "step",
        "--inputs",
        "copy",
        "--context",
        "z",
        "--units",
        "3",
        "--arms",
        "context",
    ]
    out = ["--steps", "3", "--seeds", "1", "--learning-rates", "0.01", "--out", str(tmp_path / "cli")]
    assert main(["compare", str(tmp_path / "leak.parquet"), "--target", "y", *words, *out]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("warning: copy: possible leak")
    assert printed[-3:] == json.loads((tmp_path / "cli" / "answer.json").read_text())["sentences"]


def test_predictions_say_what_they_leave_out(tmp_path, capsys):
    winner = small_comparison()[0] / "winner"
    table = planted_table("context", 0.9, series=6, steps=8, seed=7)
    steps = [None if row < 2 else step for row, step in enumerate(table["step"].to_pylist())]
    path, out = tmp_path / "new.parquet", tmp_path / "predictions.csv"
    pq.write_table(table.set_column(table.column_names.index("step"), "step", pa.array(steps)), path)
    assert main(["predict", str(winner), str(path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "warning: rows left out because step is missing: 2" in printed
    predicted, read = len(out.read_text().splitlines()) - 1, len(table)
    assert f"table: {read} read, {read - 2} used; 2 left out: step is missing" in printed
    assert f"{predicted} rows; the other {read - 2 - predicted} are in the window before a start" in printed


def test_predictions_that_cannot_be_made_or_written_are_refused(tmp_path, capsys):
    winner = small_comparison()[0] / "winner"
    table = planted_table("context", 0.9, series=6, steps=8, seed=7)
    short = table.filter(pa.array(table["step"].to_numpy() < WINDOW))
    with pytest.raises(
        ValueError, match=r"table: expected series of more steps than the window, 3, .*got 6 of at most 3"
    ):
        Predictor.from_pretrained(winner).predict(short)
    pq.write_table(table, tmp_path / "new.parquet")
    assert main(["predict", str(winner), str(tmp_path / "new.parquet"), "--out", str(tmp_path / "p.xlsx")]) == 1
    assert "out: expected a file that ends in .parquet, .pq or .csv, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("target", "mean", "x"),
        ("target", "std", 0),
        ("target", "kind", "category"),
        ("inputs", "missing", "yes"),
        ("inputs", "kind", "blob"),
        (None, "target_per", "year"),
        (None, "length", "x"),
        (None, "inputs", {}),
    ],
)
def test_codings_of_a_damaged_winner_are_refused_by_name(part, name, value, tmp_path):
    Predictor.from_pretrained(small_comparison()[0] / "winner").save_pretrained(tmp_path)
    content = json.loads((tmp_path / "predictor.json").read_text())
    holder = content["encoding"] if part is None else content["encoding"][part]
    holder = holder["x"] if part == "inputs" else holder
    holder[name] = value
    (tmp_path / "predictor.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config: expected the options of a model in .*predictor\.json"):
        Predictor.from_pretrained(tmp_path)

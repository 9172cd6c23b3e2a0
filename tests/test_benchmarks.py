"""The benchmark refuses to time what does not agree, and writes down what it timed. No time is asserted."""

import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from tests import fresh

from benchmarks import (
    fast_weights,
    gpu,
    page,
    parts,
    peers,
    ragged,
    recurrence,
    streaming,
    sweeps,
    timing,
    training_step,
    workers,
)
from benchmarks.parts import PARTS, Figure
from benchmarks.plots import draw
from benchmarks.recurrence import Problem, multiply_adds
from benchmarks.size import APART, BARE, COMPILED, EAGER, FUSED, JAX, OURS, PLAIN, PROJECTING, TRAIN, Cell, Size
from benchmarks.timing import Contender, interleave, ratio, spread
from contextual_rnn.experiments.report import html
from contextual_rnn.experiments.report.pages import BEGIN, END
from contextual_rnn.experiments.runs.folder import read_runs

ROOT = Path(__file__).parents[1]
SMALL = Size(batch=8, steps=5, units=8)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def moments(monkeypatch):
    """What is timed runs for a moment: no test reads the times."""
    monkeypatch.setattr(timing, "BLOCK", 1e-3)


@pytest.fixture
def never_timed(monkeypatch):
    for module in (training_step, recurrence):
        monkeypatch.setattr(module, "interleave", lambda *_: pytest.fail("timed what does not agree"))


def test_a_quick_run_writes_every_figure_and_why_one_is_missing(tmp_path, capsys):
    options = fast_weights.Benchmark(only=("step", "floor"), quick=True, jax=False, compile=False, out=tmp_path)
    fast_weights.run(options)
    report = json.loads((tmp_path / "benchmarks.json").read_text())
    assert report["quick"]
    assert report["gate"]
    assert report["machine"]["versions"]["torch"] == version("torch")
    assert report["not timed"] == {JAX: "not asked for", COMPILED: "not asked for"}
    whole, alone, projected = report["measured"]
    assert set(whole["microseconds"]) == {TRAIN, FUSED, PLAIN, EAGER}
    assert set(alone["microseconds"]) == {OURS, *[BARE] * recurrence.has_kernel(), EAGER, recurrence.PEAK}
    assert set(projected["microseconds"]) == {PROJECTING, APART}
    timed = [figure for figure in report["figures"] if figure["value"] is not None]
    assert len(report["figures"]) == 11 + recurrence.has_kernel()
    of_this_set = {2.2, 2.4} & {figure["target"] for figure in timed}
    assert len(of_this_set) == 1
    assert {figure["target"] for figure in timed} == {20.0, 14.0, 1.6, *of_this_set, *[2.0] * recurrence.has_kernel()}
    for figure in report["figures"]:
        measured = figure["value"] is not None
        assert (figure["note"] == "not asked for") is not measured
        assert (figure["holds"] is not None) is measured
    printed = capsys.readouterr().out
    assert all(figure["name"] in printed for figure in report["figures"])


@pytest.mark.parametrize("here", [True, False], ids=["here", "in a process"])
def test_every_cell_is_measured_on_its_threads(here, monkeypatch):
    """Whatever the one before it left: `thread_scaling` leaves one."""
    monkeypatch.setattr(workers, "START_METHOD", fresh.PROCESSES.get_start_method())
    with workers.Workers(here=here) as processes:
        processes.run(2, torch.set_num_threads, 1)
        assert processes.run(2, torch.get_num_threads) == 2


def test_the_page_says_what_the_results_say():
    """Regenerate with: python -m benchmarks.page"""
    found = (ROOT / page.PAGE).read_text().partition(BEGIN)[2].partition(END)[0]
    assert found.strip() == page.block(ROOT / "results")
    for link in re.findall(r"\]\(\.\./([^)]+)\)", found):
        assert (ROOT / link).exists(), link


def test_the_page_tells_what_does_not_hold_and_what_was_not_measured(tmp_path):
    machine = {"cores": 2, "processor": "P", "torch instruction set": "I", "versions": {"torch": "2"}}
    figures = [
        Figure("a", 2.0, "at least", 3.0),
        Figure("b", None, "at most", 1.0, "no jax"),
        Figure("c", 4.0, "at least", 3),
        Figure("d", 0.5, note="stated"),
    ]
    report = {"command": "run", "machine": machine, "figures": [figure.summary() for figure in figures]}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "sweeps.json").write_text(json.dumps({"skip": report}))
    text = page.block(tmp_path)
    assert "| a | 2 | at least 3 | **no** |" in text
    assert "| b (no jax) | not measured | at most 1 |  |" in text
    assert "| c | 4 | at least 3 | yes |" in text
    assert "| d (stated) | 0.5 |  |  |" in text
    assert figures[3].holds is None
    assert "target" not in figures[3].line()
    assert text.count("## ") == 1


def test_shares_of_a_gpus_peaks():
    """A recurrence as fast as its bytes are copied has all of the bandwidth, and of the arithmetic what that leaves."""
    size = Size(batch=8192, device="cuda")
    moved, multiplied = 4 * 4 * 8192 * 11 * 50, multiply_adds(size)
    copy, product = 2 * 4 * gpu.COPIED / 1e12, gpu.MM_SIZE**3 / 25e12
    seconds = {gpu.KERNEL: [moved / 1e12], gpu.COPY: [copy], gpu.PRODUCT: [product]}
    bandwidth, arithmetic = gpu._shares(Cell("recurrence", size, seconds))
    assert bandwidth.value == pytest.approx(1)
    assert arithmetic.value == pytest.approx(multiplied / 25e12 / (moved / 1e12))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run")
def test_without_a_gpu_its_benchmark_says_so():
    done = fresh.run("import runpy; runpy.run_module('benchmarks.gpu', run_name='__main__')", check=False)
    assert done.returncode == 1
    assert "a GPU that torch can use is needed" in done.stderr


def test_all_parts_have_a_place_on_the_command_line():
    assert fast_weights.Benchmark().only == tuple(PARTS)


def test_nothing_is_timed_or_written_where_an_operation_is_wrong(tmp_path, monkeypatch, never_timed):
    recurrence.check_operations(SMALL, jax=False)
    monkeypatch.setattr(peers, "RATE", 0.5001)
    options = fast_weights.Benchmark(quick=True, jax=False, compile=False, out=tmp_path)
    with pytest.raises(AssertionError, match="attention form"):
        fast_weights.run(options)
    assert not list(tmp_path.iterdir())


def _disagree(*_):
    raise AssertionError("no agreement")


def test_what_does_not_agree_in_the_grid_is_named_and_the_rest_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parts, "training_step", _disagree)
    monkeypatch.setattr(parts.recurrence, "recurrence", lambda size, *_: Cell("recurrence", size, {OURS: [1e-6]}))
    report = fast_weights.run(
        fast_weights.Benchmark(only=("grid",), quick=True, jax=False, compile=False, out=tmp_path)
    )
    assert {cell["reason"] for cell in report["refused"]} == {"no agreement"}
    assert {cell["what"] for cell in report["measured"]} == {"recurrence"}
    assert json.loads((tmp_path / "benchmarks.json").read_text())["refused"] == report["refused"]
    assert "refused: training step, " in capsys.readouterr().out


@pytest.mark.parametrize("initial", ["zero", "dense"])
def test_a_wrong_model_is_never_timed(initial, monkeypatch, never_timed):
    size = replace(SMALL, initial=initial)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # the peer's equations, not the compiler
    training_step.check(size, {COMPILED: training_step.compiled(size)})
    monkeypatch.setattr(peers, "DECAY", 0.9)
    with pytest.raises(AssertionError, match=rf"{re.escape(COMPILED)}: (loss|gradient)"):
        training_step.training_step(size, [TRAIN, COMPILED], seconds=0.0)


def test_a_wrong_recurrence_is_never_timed(monkeypatch, never_timed):
    monkeypatch.setitem(recurrence.CALLS, JAX, lambda problem: lambda: problem.gradients(timing="ba2016"))
    with pytest.raises(AssertionError, match="JAX, gradient"):
        recurrence.recurrence(SMALL, [OURS, JAX], seconds=0.0)


def test_training_that_goes_another_way_is_never_timed(monkeypatch, never_timed):
    monkeypatch.setattr(training_step.RetrievalConfig, "learning_rate", 2e-3)
    with pytest.raises(AssertionError, match="losses in training"):
        training_step.training_step(SMALL, [TRAIN], seconds=0.0)


@pytest.mark.parametrize("width", [8, 16])
def test_multiply_adds_are_those_of_the_equations(width):
    steps = 4
    forward = sum(width * width + 2 * (t * width) for t in range(1, steps + 1))
    assert multiply_adds(Size(batch=2, steps=steps, units=width)) == 2 * 3 * forward


def test_rounds_are_interleaved_and_compared_pair_by_pair():
    calls = []
    contenders = {name: Contender(lambda steps, name=name: calls.append((name, steps)), 3) for name in "ab"}
    taken = interleave(contenders, seconds=0.0, least=4)
    assert [len(seconds) for seconds in taken.values()] == [4, 4]
    assert "".join(name for name, _ in calls[4:]) == "abbaabba"
    assert all(steps % 3 == 0 for _, steps in calls)
    assert ratio([2.0, 40.0, 6.0], [1.0, 10.0, 3.0]) == 2.0
    assert spread([3e-6, 1e-6, 2e-6])["median"] == pytest.approx(2.0)
    assert spread([1e-6])["lower quartile"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bound", "value", "holds"), [("at least", 2.0, True), ("at most", 2.1, False), ("at most", None, None)]
)
def test_a_figure_says_whether_it_holds(bound, value, holds):
    figure = Figure("name", value, bound, 2.0, "why")
    assert figure.holds is holds
    assert figure.line().endswith("why")
    assert ("not measured" in figure.line()) is (value is None)


def test_a_plot_shows_each_axis_along_the_cells_that_differ_in_it_alone():
    sizes = [SMALL, Size(8, 7, 8), Size(8, 5, 16), Size(16, 5, 8)]
    cells = [Cell("recurrence", size, {OURS: [1e-6, 2e-6], EAGER: [3e-6, 4e-6]}) for size in sizes]
    panels = draw(cells)["recurrence"].axes
    seen = [[list(line.get_xdata()) for line in axes.get_lines()] for axes in panels]
    assert seen == [[[5, 7]] * 2, [[8, 16]] * 2, [[8, 16]] * 2]
    assert draw(cells[:1]) == {}


def test_the_random_problem_is_the_same_in_both_precisions():
    exact, single = (Problem(SMALL, dtype) for dtype in (torch.float64, torch.float32))
    for one, other in zip(exact.tensors, single.tensors, strict=True):
        torch.testing.assert_close(one.float(), other)


def test_streams_are_timed_after_they_agree(tmp_path, monkeypatch):
    report = streaming.run(streaming.Benchmark(quick=True, out=tmp_path))
    assert json.loads((tmp_path / "streaming.json").read_text()) == report
    names = " ".join(figure["name"] for figure in report["figures"])
    assert all(part in names for part in (*streaming.KINDS, streaming.ONE_CALL, streaming.ONNX, streaming.CELL))
    stepped = streaming.stepped

    def one_more(*arguments):
        step = stepped(*arguments)
        return lambda x: step(x) + 1

    monkeypatch.setattr(streaming, "stepped", one_more)
    monkeypatch.setattr(streaming, "time_steps", lambda *_: pytest.fail("timed what does not agree"))
    with pytest.raises(AssertionError, match="differs by"):
        streaming.run(streaming.Benchmark(quick=True, out=tmp_path))


def test_sequences_of_different_lengths_are_timed_after_they_agree(tmp_path, monkeypatch):
    report = ragged.run(ragged.Benchmark(quick=True, compile=False, out=tmp_path))
    assert json.loads((tmp_path / "ragged.json").read_text()) == report
    names = " ".join(figure["name"] for figure in report["figures"])
    assert all(part in names for part in (*ragged.KINDS, *ragged.OURS, ragged.PACKED, ragged.LOOP))
    packed = ragged.packed
    monkeypatch.setattr(ragged, "packed", lambda *arguments: packed(*arguments) + 1)
    monkeypatch.setattr(ragged, "time_steps", lambda *_: pytest.fail("timed what does not agree"))
    with pytest.raises(AssertionError, match="lengths: differs by"):
        ragged.run(ragged.Benchmark(quick=True, out=tmp_path))


def test_finished_runs_are_skipped_reported_and_summed_up(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "write_report", read_runs)  # its pictures take seconds, and have tests of their own
    report = sweeps.run(sweeps.Benchmark(only=("skip",), quick=True, out=tmp_path / "sweeps.json"))
    assert json.loads((tmp_path / "sweeps.json").read_text()) == report
    names = [figure["name"] for figure in report["skip"]["figures"]]
    assert names == [
        "seconds to skip 6 finished runs",
        "seconds of a report on 6 runs",
        "seconds of the results of 6 runs",
    ]

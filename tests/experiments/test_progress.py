"""Progress is a bar on a terminal, and whole lines elsewhere, a few seconds apart."""

import io
import sys
from types import SimpleNamespace

import pytest

from contextual_rnn.experiments import progress
from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.compare import compare
from contextual_rnn.experiments.progress import Bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(**options):
    with Bar(total=3, unit="epoch", desc="work", **options) as bar:
        for _ in range(3):
            bar.update(1)
            bar.update(0)
        bar.set_postfix_str("best 1", refresh=False)
    return bar


def test_elsewhere_it_is_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    work()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work:   0%|")
    assert any(line.startswith("work:  67%|") and "2/3 [" in line for line in lines)
    assert all(line.startswith("work: ") and "\r" not in line for line in lines)


def test_elsewhere_what_is_done_soon_prints_nothing(capsys):
    bar = work()
    assert capsys.readouterr().err == ""
    assert (bar.mininterval, bar.delay) == (10, 10)
    assert bar not in Bar._instances  # or the next bar would be drawn below it


@pytest.mark.parametrize("mininterval", [0, 0.1])
def test_on_a_terminal_it_is_a_bar(monkeypatch, mininterval):
    monkeypatch.setattr(sys, "stderr", Terminal())
    work(mininterval=mininterval, miniters=1)
    drawn = sys.stderr.getvalue()
    assert drawn.startswith("\rwork:   0%|")
    assert drawn.endswith("best 1]\n")
    assert drawn.count("\n") == 1


def test_a_comparison_has_it_too(capsys, monkeypatch, tmp_path):
    def run(plan, folder, workers, *, smallest_gain, watch):
        watch("search", SimpleNamespace(done=1, total=3, outcomes={"one": None}))
        raise ValueError("enough")

    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setattr(compare, "run", run)
    assert main(["compare", "decay", "--seeds", "1", "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("search:  33%|") and "1/3 [" in line for line in lines), lines

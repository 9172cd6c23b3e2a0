"""The short setting of `make fuzz`: every public name joins, a fixed seed finds nothing, what is wrong is found."""

import pytest
import torch
from tests.fuzz import calls, damaged_states, run_folders
from tests.fuzz.call import CASES, Call, public_names
from tests.fuzz.draw import Draw
from tests.fuzz.pool import HANGING, tries

SEED = "short"
COUNTS = {"calls": 300, "damaged_states": 90, "run_folders": 30 if run_folders.damage_of() else 0}


def test_every_public_name_is_called():
    assert set(public_names()) <= set(CASES)


@pytest.mark.timeout(2 * HANGING)  # so that a try that hangs is found, and a slow machine is not
def test_a_fixed_seed_finds_nothing():
    jobs = [(kind, number) for kind, count in COUNTS.items() for number in range(count)]
    outcomes = dict(tries(SEED, jobs))
    assert set(outcomes) == set(jobs)
    findings = {job: outcome for job, outcome in outcomes.items() if outcome.kind == "finding"}
    assert not findings


def test_a_number_repeats_its_try():
    for number in range(12):
        first, second = calls.run(SEED, number), calls.run(SEED, number)
        assert (first.key, first.kind) == (second.key, second.kind)  # messages have addresses and folders


def _of(function, **options):
    return lambda d: Call(function, [torch.ones(3)], **options)


def _raises(error):
    def function(tensor):
        raise error

    return function


COUNTER = iter(range(10**6))
WRONG = {
    "changes an argument": _of(lambda tensor: tensor.add_(1)),
    "returns something else": _of(lambda tensor: next(COUNTER)),
    "returns what is not documented": _of(lambda tensor: tensor, expect=_raises(AssertionError("no"))),
    "refuses valid arguments": _of(_raises(ValueError("tensor: expected none"))),
    "reads memory in order": _of(lambda tensor: tensor.stride(0)),
    "follows the default dtype": _of(lambda tensor: torch.zeros(3)),
    "raises what is not documented": _of(_raises(KeyError("a"))),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name, monkeypatch):
    monkeypatch.setitem(CASES, "wrong", WRONG[name])
    monkeypatch.setattr(calls, "names", lambda: ["wrong"])
    assert any(calls.run(SEED, number).kind == "finding" for number in range(300))


def test_text_for_a_flag_is_found(monkeypatch):
    monkeypatch.setitem(CASES, "wrong", lambda d: Call(lambda flag: 1 if flag else 2, [True]))
    monkeypatch.setattr(calls, "names", lambda: ["wrong"])
    assert any(calls.run(SEED, number).error == "taken" for number in range(300))


CRASHES = {"os.abort()": "SIGABRT", "os.kill(os.getpid(), 11)": "SIGSEGV", "os._exit(3)": "exit status 3"}


@pytest.mark.parametrize("code", CRASHES)
def test_a_crash_is_found_and_the_tries_go_on(code, tmp_path, monkeypatch):
    text = f"import os\nfrom tests.fuzz.outcome import Outcome\ndef run(seed, number):\n    if number == 1: {code}\n"
    folder = tmp_path / "tests" / "fuzz"  # another part of the same namespace package
    folder.mkdir(parents=True)
    (folder / "crashing.py").write_text(text + "    return Outcome('a', seed, 'right')\n")
    monkeypatch.syspath_prepend(tmp_path)
    outcomes = dict(tries(SEED, [("crashing", number) for number in range(3)]))
    assert [outcomes["crashing", number].kind for number in range(3)] == ["right", "finding", "right"]
    assert outcomes["crashing", 1].message == CRASHES[code]


@pytest.mark.parametrize("name", damaged_states.DAMAGES)
def test_files_are_damaged(name, tmp_path):
    d = Draw(SEED)
    saved = damaged_states.KINDS["load_state"](d, tmp_path)
    before = saved.path.read_bytes()
    damaged_states.DAMAGES[name](d, saved.path)
    assert not saved.path.is_file() or saved.path.read_bytes() != before

"""The types of options: what is written on a command line, parsed again, is the same configuration."""

import dataclasses
import shlex
import typing
from dataclasses import dataclass
from typing import Literal, Optional

import pytest

from contextual_rnn.experiments.cli.main import parse
from contextual_rnn.experiments.config import Metric, TaskEntry, TrainingConfig, option_types, register, registry
from contextual_rnn.experiments.runs.folder import command
from contextual_rnn.experiments.sweeps.grid import combinations


@dataclass(frozen=True)
class EveryType(TrainingConfig):
    """An option of every type."""

    flag: bool = False
    no_bias: bool = True
    lambda_: float = 1.0
    flag_: bool = True
    _z: int = 1
    a__b: str = "x"
    sure: bool | None = None
    count: None | int = None  # noqa: RUF036
    rate: Optional[float] = 0.5  # noqa: UP045
    text: str | None = None
    kind: Literal["a", "none", "-b"] = "a"
    maybe: Literal["a", "b c", "-b"] | None = None


VALUES = {
    "flag": [True, False],
    "no_bias": [True, False],
    "lambda_": [2.0, -1e-05, 1e300],
    "flag_": [True, False],
    "_z": [3, -3],
    "a__b": ["", " ", "-x", "--flag", "None", "a b'\"$", "é"],
    "sure": [True, False, None],
    "count": [3, -3, None],
    "rate": [2.0, -0.5, None],
    "text": ["", "-x", "none", "3", None],
    "kind": ["a", "none", "-b"],
    "maybe": ["a", "b c", "-b", None],
}


@pytest.fixture(autouse=True)
def every(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    register(TaskEntry("every", EveryType, print, "Every", (Metric("error", "error"),)))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VALUES.items() for value in values])
def test_a_written_option_is_read_again(name, value):
    other = next(each for each in VALUES[name] if each != value)
    for base in (EveryType(), EveryType(**{name: other})):
        config = dataclasses.replace(base, **{name: value})
        words = shlex.split(command(config, "out"))
        assert parse(words[1:]).task.config == config
        read = option_types(EveryType)[name].read(str(value))
        assert (read, type(read)) == (value, type(value))


def test_a_type_of_two_is_that_of_its_value():
    """typing.Optional and a Literal or None are other objects than X | None before Python 3.14."""
    assert typing.get_origin(typing.get_type_hints(EveryType)["maybe"]) is typing.Union
    assert repr(EveryType(count=3).count) == "3"
    assert combinations(EveryType(), {"count": ["none", "3"]}) == [EveryType(), EveryType(count=3)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("maybe", "c", "maybe: expected one of a, b c, -b or None, got 'c'"),
        ("count", 3.0, "count: expected an int or None, got 3.0"),
        ("sure", 1, "sure: expected True or False or None, got 1"),
        ("text", "None", "text: expected text or None, got the text 'None', which a command line reads as None"),
    ],
)
def test_values_of_another_type_are_refused(name, value, message):
    with pytest.raises((ValueError, TypeError)) as error:
        EveryType(**{name: value})
    assert str(error.value) == message


def test_a_grid_says_what_is_expected():
    with pytest.raises(ValueError, match="grid: expected an int or None for count, got 'x'"):
        combinations(EveryType(), {"count": ["x"]})

"""The types of options: what is written on a command line, parsed again, is the same configuration."""

import dataclasses
import enum
import shlex
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import pytest

from contextual_rnn.experiments.cli.main import parse
from contextual_rnn.experiments.cli.sweep import SweepOptions
from contextual_rnn.experiments.cli.train import TrainOptions
from contextual_rnn.experiments.config import Metric, TaskEntry, TrainingConfig, option_types, register, registry
from contextual_rnn.experiments.config.options import RESERVED
from contextual_rnn.experiments.runs.folder import Run, command
from contextual_rnn.experiments.runs.summary import _row
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


class Colour(enum.Enum):
    RED = 1


def field(annotation, default=None, **options):
    return [("x", annotation, dataclasses.field(**({"default": default} | options)))]


TYPES = "x: expected an option of type bool, int, float, str or a Literal of texts, or one of these and None, got "


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (field(int | str, 1), TYPES + r"int \| str"),
        (field(Literal[1, 2], 1), TYPES + r"Literal\[1, 2\]"),
        (field(tuple[int, int], (1, 2)), TYPES + r"tuple\[int, int\]"),
        (field(Path, Path()), TYPES + "pathlib"),
        (field(Colour, Colour.RED), TYPES + ".*Colour"),
        (field(list, default=dataclasses.MISSING, default_factory=list), TYPES + "list"),
        (field(int), "x: expected an int, got None"),
        (field(Literal["a"], "b"), "x: expected one of a, got 'b'"),
        (field(int, dataclasses.MISSING, kw_only=True), "x: expected an option with a default, got one without"),
        (field(int, 1, init=False), "x: expected an option that can be given"),
        ([("state", str | None, None)], "state: expected text, as in every task, got text or None"),
        ([("epochs", float, 1.0)], "epochs: expected an int, as in every task, got a number"),
        ([("_x", bool, False)], "_x: expected a name that begins with a letter for True or False"),
        ([("x", bool, False), ("no_x", int, 1)], "no_x: expected a name that no command, table or other option has"),
        *(([(name, str, "")], f"{name}: expected a name that no command") for name in ("task", "folder", "help")),
    ],
)
def test_options_that_are_refused(fields, message):
    config = dataclasses.make_dataclass("Refused", fields, bases=(TrainingConfig,), frozen=True)
    with pytest.raises((TypeError, ValueError), match=message):
        register(TaskEntry("refused", config, print, "", (Metric("error", "error"),)))


def test_no_option_is_named_as_one_of_a_command_or_a_column(tmp_path):
    for kind in (TrainOptions, SweepOptions):
        assert {option.name for option in dataclasses.fields(kind)} - {"config"} <= RESERVED
    row = _row(Run(tmp_path, "every", EveryType(), [], None))
    assert row.keys() - {option.name for option in dataclasses.fields(EveryType)} <= RESERVED

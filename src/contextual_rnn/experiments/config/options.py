"""The options that the runs of every task have, and their checks. Field texts become the command line's help."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from contextual_rnn.experiments.config.option_type import option_types

StateName = Literal["zero", "free", "context", "normal"]
STATES: tuple[StateName, ...] = get_args(StateName)
BASELINE = "zero"  # the state that others are compared with
Device = Literal["cpu", "cuda"]
# Options that say how a run is computed, not what: tables and pictures put runs together that differ in them.
COMPUTED_BY = ("threads", "device")

MOST_THREADS = 4096  # with a hundred thousand PyTorch ends the process
CHECKPOINT_SECONDS = 30.0  # by default between checkpoints: what is lost at most when a run is killed
Preset = Literal["quick", "paper"]  # sizes of the paper's experiments in `reproduce`
PRESETS: tuple[Preset, ...] = get_args(Preset)


def at_least(name: str, value: float, least: float) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number of at least {least}, got {value!r}")
    if not value >= least:
        raise ValueError(f"{name}: expected a number of at least {least}, got {value!r}")


def positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: expected a positive, finite number, got {value!r}")


@dataclass(frozen=True)
class TrainingConfig:
    """What the runs of every task have; a task's own configuration is a frozen dataclass that adds its options.

    Options are of type bool, int, float, str or a Literal of texts, or one of these and None, each with a default;
    `__post_init__` checks their types, and raises ValueError or TypeError, which names the option. Defaults here are
    the paper's for associative retrieval.
    """

    epochs: int = 200
    """Passes over the training set."""
    batch_size: int = 128
    """Sequences in a training step; the last, smaller batch of an epoch is used too."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    seed: int = 0
    """Seeds the weights, the order of the batches and the sampled states."""
    data_seed: int = 0
    """Seeds the data set, apart from `seed` so that runs can differ in one and not the other."""
    threads: int = 1
    """CPU threads; part of the run because sums in another order give other last bits."""
    device: Device = "cpu"
    """cpu, or cuda: a GPU, where every step is one captured graph; sampled states are other draws there."""
    state: str = "zero"
    """Initial state. Runs of other states are compared with those of zero."""

    def __post_init__(self) -> None:
        for name, kind in option_types(type(self)).items():
            object.__setattr__(self, name, kind.checked(name, getattr(self, name)))
        for name in ("epochs", "batch_size", "threads"):
            at_least(name, getattr(self, name), 1)
        if self.threads > MOST_THREADS:
            raise ValueError(f"threads: expected at most {MOST_THREADS}, got {self.threads}")
        positive("learning_rate", self.learning_rate)
        if not re.fullmatch(r"\w[\w.+-]*", self.state):  # it becomes part of a folder's name
            raise ValueError(f"state: expected a name of letters, digits, _, -, + and ., got {self.state!r}")


def in_order(states: Iterable[str]) -> list[str]:
    """Each state once: those of the paper in its order, then others by name."""
    names = set(states)
    return [*(state for state in STATES if state in names), *sorted(names.difference(STATES))]


# Options of the commands, and columns of results.parquet: a test holds that none is left out.
RESERVED = {
    *("task", "out", "checkpoint_seconds", "grid", "grid_file", "seeds", "workers", "stack", "scheduler", "retries"),
    *("dry_run", "json", "help", "folder", "identity", "status", "seconds"),
}


def check_options(config: type[TrainingConfig]) -> None:
    """Refuse options that a command line, a file or a table could not have. Raises TypeError or ValueError."""
    types, base, taken = option_types(config), option_types(TrainingConfig), set(RESERVED)
    for option in dataclasses.fields(config):
        name, kind = option.name, types[option.name]
        if option.default is dataclasses.MISSING:
            raise TypeError(f"{name}: expected an option with a default, got one without")
        if not option.init:
            raise TypeError(f"{name}: expected an option that can be given, got field(init=False)")
        if name in base and (kind.kind, kind.optional) != (base[name].kind, False):
            raise TypeError(f"{name}: expected {base[name].words}, as in every task, got {kind.words}")
        flags = {name, f"no_{name}"} if kind.kind is bool and not kind.optional else {name}
        if len(flags) > 1 and name.startswith("_"):
            raise ValueError(f"{name}: expected a name that begins with a letter for True or False, got {name!r}")
        if taken & flags:
            raise ValueError(f"{name}: expected a name that no command, table or other option has, got {name!r}")
        taken |= flags
    config()  # its checks, of the defaults

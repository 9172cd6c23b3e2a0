"""What a run is: one frozen dataclass per task. Field texts become the command line's help.

Imports no PyTorch, since `contextual-rnn --help` reads it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from contextual_rnn._timing import Timing

StateName = Literal["zero", "free", "context", "normal"]
Start = Literal["sound", "wenke2019"]
Leaves = Literal["h", "h+a"]
Network = Literal["fast_weights", "lstm"]
Schedule = Literal["constant", "cosine"]
Device = Literal["cpu", "cuda"]
Ingredient = Literal["none", "embedding", "weights", "bias", "norm", "readout", "letters"]

STATES: tuple[StateName, ...] = get_args(StateName)
STARTS: tuple[Start, ...] = get_args(Start)
LEAVES: tuple[Leaves, ...] = get_args(Leaves)
NETWORKS: tuple[Network, ...] = get_args(Network)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
DEVICES: tuple[Device, ...] = get_args(Device)
INGREDIENTS: tuple[Ingredient, ...] = get_args(Ingredient)
# Options that say how a run is computed, not what: tables and pictures put runs together that differ in them.
COMPUTED_BY = ("threads", "device")

CHECKPOINT_SECONDS = 30.0  # by default between checkpoints: what is lost at most when a run is killed
Preset = Literal["quick", "paper"]  # sizes of the paper's experiments in `reproduce`
PRESETS: tuple[Preset, ...] = get_args(Preset)


LARGEST_INT = 2**63 - 1


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as the type of an option has it: an int where a float is expected becomes one, nothing else changes."""
    if get_origin(kind) is Literal:
        return _chosen(name, value, get_args(kind))
    if get_origin(kind) is UnionType:
        return None if value is None else _typed(name, value, get_args(kind)[0])
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected True or False, got {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        raise TypeError(f"{name}: expected {'an int' if kind is int else 'a number'}, got {value!r}")
    if isinstance(value, Integral) and abs(int(value)) > LARGEST_INT:
        raise ValueError(f"{name}: expected a number that 64 bits hold, got one of {int(value).bit_length()} bits")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return int(value) if isinstance(value, Integral) and kind is int else float(value)


@functools.cache
def _kinds(config: type) -> dict[str, Any]:
    return get_type_hints(config)


def _chosen(name: str, value: Any, choices: tuple[object, ...]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    return value


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name}: expected a number of at least {least}, got {value!r}")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: expected a positive, finite number, got {value!r}")


@dataclass(frozen=True)
class _Training:
    """What both tasks share; defaults here are the paper's for associative retrieval."""

    epochs: int = 200
    """Passes over the training set."""
    batch_size: int = 128
    """Sequences in a training step; the last, smaller batch of an epoch is used too."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    schedule: Schedule = "constant"
    """The step size over training: constant, or falling to zero along half a cosine (Loshchilov and Hutter 2017)."""
    seed: int = 0
    """Seeds the weights, the order of the batches and the sampled states."""
    data_seed: int = 0
    """Seeds the data set, apart from `seed` so that runs can differ in one and not the other."""
    threads: int = 1
    """CPU threads; part of the run because sums in another order give other last bits."""
    device: Device = "cpu"
    """cpu, or cuda: a GPU, where every step is one captured graph; sampled states are other draws there."""

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), kind))
        for name in ("epochs", "batch_size", "threads"):
            _at_least(name, getattr(self, name), 1)
        _positive("learning_rate", self.learning_rate)


@dataclass(frozen=True)
class RetrievalConfig(_Training):
    """Associative retrieval with fast weights: c9k8j3f1??k -> 8."""

    state: StateName = "context"
    """Initial state: zero (Eq. 2a), free (Eq. 2b), context (Eq. 2c) or normal (Eq. 4)."""
    leaves: Leaves = "h"
    """What the initial state sets: h alone, or h and the fast weights A, as in the authors' code."""
    start: Start = "sound"
    """Initial weights: sound (torch's defaults, W = 0.05 I) or wenke2019 (the authors' own, with letters a to y)."""
    switched: Ingredient = "none"
    """One ingredient of the start that is taken from the other start, to see what it does."""
    timing: Timing = "wenke2019"
    """When the fast weights are written: ba2016 (the finished h, after the read) or wenke2019 (before it)."""
    pairs: int = 4
    """K, the number of letter-digit pairs in a sequence."""
    modified: bool = False
    """mART: all letters first, then all digits."""
    alphabet_size: int | None = None
    """Letters to draw from, at most 26; by default 26, and 25 (a to y) with the authors' letters."""
    network: Network = "fast_weights"
    """fast_weights, or an lstm as a control."""
    units: int = 50
    """Size of the hidden state."""
    readout_units: int = 100
    """ReLU units between the last hidden state and the softmax."""
    inner_steps: int = 1
    """S, reads of the fast weights in a step."""
    decay: float = 0.95
    """lambda, what the fast weights keep in a step."""
    rate: float = 0.5
    """eta, what is written into the fast weights; with 0 layer norm and inner step are left, without fast weights."""
    layer_norm: bool = True
    """Layer norm inside the fast-weights step."""
    shuffled_context: bool = False
    """Control: every sequence gets the context of another one in its batch."""
    context_input: bool = False
    """Control: the context is also an input at every step."""
    train_samples: int = 100_000
    """Training sequences."""
    validation_samples: int = 20_000
    """Validation sequences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "lstm" and (self.start, self.switched, self.leaves) != ("sound", "none", "h"):
            raise ValueError("network: expected fast_weights for leaves h+a or the authors' start, got lstm")
        for name in ("decay", "rate"):
            _at_least(name, getattr(self, name), 0)
        for name in ("pairs", "units", "readout_units", "inner_steps", "train_samples", "validation_samples"):
            _at_least(name, getattr(self, name), 1)
        if self.alphabet_size is not None and not 1 <= self.alphabet_size <= 26:
            raise ValueError(f"alphabet_size: expected 1 to 26 letters, got {self.alphabet_size!r}")
        if self.pairs > self.letters:
            raise ValueError(f"pairs: expected at most the {self.letters} letters of the alphabet, got {self.pairs}")

    @property
    def letters(self) -> int:
        """Letters really drawn from."""
        if self.alphabet_size is not None:
            return self.alphabet_size
        return 25 if self.uses_authors_choice("letters") else 26

    def uses_authors_choice(self, ingredient: Ingredient) -> bool:
        """Whether this ingredient of the start is the authors'."""
        return (self.start == "wenke2019") != (self.switched == ingredient)


@dataclass(frozen=True)
class DecayConfig(_Training):
    """Linear cosine decay with an LSTM: sequences from an initial value and a period."""

    state: StateName = "normal"
    """Initial state: zero (Eq. 2a, the period is appended to every step), free, context or normal (Eq. 4)."""
    units: int = 128
    """Size of the LSTM."""
    context_units: int = 50
    """Hidden units of the context network g."""
    scale: float = 0.25
    """Where sigma starts, for the normal state."""
    min_scale: float = 0.0
    """Floor under sigma; in the paper's loss nothing else keeps it above zero."""
    kl_weight: float = 0.0
    """Weight in the loss of KL(h(0) || N(0, 1)) in nats, for the normal state. The paper has none (0); 2 s^2 / 25 makes
    the loss a variational bound for scaled steps known to within s."""
    samples_per_period: int = 1000
    """Training sequences for each of the periods 0.5, 1.5, 2.5, 3.5, 4.5; validation has half, for 1, 2, 3, 4."""
    clip_norm: float = 10.0
    """Largest norm of the gradient."""
    epochs: int = 65
    """Passes over the training set."""
    learning_rate: float = 2e-4
    """Adam's step size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("units", "context_units", "samples_per_period"):
            _at_least(name, getattr(self, name), 1)
        _at_least("samples_per_period", self.samples_per_period, 2)
        _positive("scale", self.scale)
        _at_least("min_scale", self.min_scale, 0)
        _at_least("kl_weight", self.kl_weight, 0)
        if self.kl_weight and self.state != "normal":
            raise ValueError(f"kl_weight: expected 0 but for the normal state, got {self.kl_weight}")
        if self.scale <= self.min_scale:
            raise ValueError(f"scale: expected more than min_scale={self.min_scale}, got {self.scale}")
        _positive("clip_norm", self.clip_norm)


Config = RetrievalConfig | DecayConfig
CONFIGS: dict[str, type[RetrievalConfig] | type[DecayConfig]] = {"retrieval": RetrievalConfig, "decay": DecayConfig}


def task_name(config: Config) -> str:
    return next(name for name, kind in CONFIGS.items() if isinstance(config, kind))


def config_to_dict(config: Config) -> dict[str, Any]:
    return {"task": task_name(config), **dataclasses.asdict(config)}


def identity(config: Config) -> str:
    """Twelve hexadecimal digits that tell this configuration from every other: a hash of its options.

    Options at their default are left out, so that a later version may add one and still know its old runs.
    """
    chosen = {
        field.name: type(field.default)(value) if isinstance(field.default, float) else value
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != field.default
    }
    text = json.dumps({"task": task_name(config), **chosen}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def config_from_dict(options: dict[str, Any]) -> Config:
    """The configuration written as `options`.

    Raises ValueError for an unknown task or option, listing those there are, and for values that the configuration
    refuses; TypeError for values of another type.
    """
    options = dict(options)
    task = options.pop("task", None)
    if not isinstance(task, str) or task not in CONFIGS:
        raise ValueError(f"task: expected one of {', '.join(CONFIGS)}, got {task!r}")
    known = {field.name for field in dataclasses.fields(CONFIGS[task])}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"options of {task}: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    return CONFIGS[task](**options)

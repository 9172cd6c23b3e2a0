"""Sequences of a table: the options of a run, its arms, and how its runs are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from contextual_rnn.experiments.config.entry import Measure, Metric, TaskEntry, final
from contextual_rnn.experiments.config.options import TrainingConfig, at_least, positive

ArmName = Literal["zero", "burn_in", "free", "context", "window", "context_window", "normal", "every_step"]
ARMS: tuple[ArmName, ...] = get_args(ArmName)
NETWORKS = ("lstm", "gru", "rnn", "fast_weights")
# Arms that the others are compared with beside zero: they do not change the initial state.
CONTROLS: tuple[ArmName, ...] = ("zero", "burn_in", "every_step")
READ_CONTEXT: tuple[ArmName, ...] = ("context", "context_window")
READ_WINDOW: tuple[ArmName, ...] = ("burn_in", "window", "context_window")
TITLES = {
    "zero": "zero state",
    "burn_in": "zero state with burn-in",
    "free": "learned state, the same for all",
    "context": "state from the context",
    "window": "state from the window of the past",
    "context_window": "state from context and window",
    "normal": "distribution of states",
    "every_step": "zero state, context at every step",
}


def arms_for(context: bool, window: bool) -> list[ArmName]:
    """The arms that a table has columns for: with a context, with a window of the past, or with both."""
    absent = [*(() if context else READ_CONTEXT), *(() if window else READ_WINDOW)]
    absent += [] if context or window else ["every_step"]
    return [arm for arm in ARMS if arm not in absent]


@dataclass(frozen=True)
class PanelConfig(TrainingConfig):
    """Sequences of a table, from one of several initial states or their controls."""

    state: ArmName = "zero"
    """zero; burn_in: zero, and the window's steps are run before the first; free: learned, the same for all; context,
    window, context_window: from static columns, from the steps before, from both; normal: a distribution around that
    of context and window; every_step: zero, with the context (or the window) as further inputs of every step."""
    panel: str = ""
    """File that says where the table is and what its columns mean, as `contextual-rnn compare` writes it."""
    data: str = ""
    """Hash of the table and of that file: runs of other data are other runs."""
    network: str = "lstm"
    """lstm, gru, rnn, fast_weights, or FILE.py:NAME: a function (input_size, units) that returns a network, with
    batch_first=True."""
    units: int = 32
    """Size of the network."""
    features: int = 16
    """Features that context and window are encoded as, each."""
    samples: int = 2
    """Draws of the normal state for each sequence of a training step."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    epochs: int = 30
    """Passes over the training set; a small one is passed several times in an epoch, which has ten steps at least."""
    batch_size: int = 64
    """Sequences in a training step."""
    learning_rate: float = 1e-2
    """Adam's step size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("units", "features"):
            at_least(name, getattr(self, name), 1)
        at_least("samples", self.samples, 2)
        positive("clip_norm", self.clip_norm)
        if self.network not in NETWORKS and ".py:" not in self.network:
            raise ValueError(f"network: expected {', '.join(NETWORKS)} or FILE.py:NAME, got {self.network!r}")
        if self.device != "cpu":
            raise ValueError(f"device: expected cpu for sequences of a table, got {self.device!r}")


# The defaults of a comparison, in Python and on the command line.
SEEDS, STEPS = 5, 500  # of training, for every arm
UNITS, LEARNING_RATES = (16, 64), (3e-3, 1e-2)  # that are tried for every arm
SMALLEST_GAIN = 0.02  # of zero's error: a gain below it is none that anybody would notice

VALIDATION_ERROR = Measure("validation_error", final("validation_error"))

PANEL = TaskEntry(
    name="panel",
    config=PanelConfig,
    task="contextual_rnn.experiments.tasks.panel:PanelTask",
    title="Sequences of a table",
    metrics=(
        Metric("validation_error", "validation error"),
        Metric("best_epoch", "best epoch", curve=False),
    ),
    measures=(VALIDATION_ERROR,),
    columns=("state", "units", "learning_rate"),
    titles={"state": TITLES},
    text="One network predicts the target from the inputs, from several initial states. The comparison itself is in "
    "the report that contextual-rnn compare writes.",
    curves="Error on the validation series: squared, in units of the target's variance, or cross entropy in nats.",
)

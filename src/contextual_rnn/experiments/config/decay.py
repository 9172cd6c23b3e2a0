"""Linear cosine decay: its options, with the paper's defaults, and how its runs are shown."""

from __future__ import annotations

from dataclasses import dataclass

from contextual_rnn.experiments.config.entry import Measure, Metric, TaskEntry, final
from contextual_rnn.experiments.config.options import StateName, TrainingConfig, at_least, positive


@dataclass(frozen=True)
class DecayConfig(TrainingConfig):
    """Linear cosine decay with an LSTM: sequences from an initial value and a period."""

    state: StateName = "normal"
    """Initial state: zero (Eq. 2a, the period is appended to every step), free, context or normal (Eq. 4)."""
    units: int = 128
    """Size of the LSTM."""
    context_units: int = 50
    """Hidden units of the context network g; 0 for a linear g, which has none."""
    period_input: bool = False
    """Append the period to every step for the context and normal states too, as for zero and free."""
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
        for name, least in (("units", 1), ("context_units", 0), ("samples_per_period", 2)):
            at_least(name, getattr(self, name), least)
        positive("scale", self.scale)
        at_least("min_scale", self.min_scale, 0)
        at_least("kl_weight", self.kl_weight, 0)
        if self.kl_weight and self.state != "normal":
            raise ValueError(f"kl_weight: expected 0 but for the normal state, got {self.kl_weight}")
        if self.scale <= self.min_scale:
            raise ValueError(f"scale: expected more than min_scale={self.min_scale}, got {self.scale}")
        positive("clip_norm", self.clip_norm)


SQUARED_ERROR = Measure("validation_squared_error", final("validation_squared_error"))
FREE_RUNNING = Measure("free_running_squared_error", final("free_running_squared_error"))

DECAY = TaskEntry(
    name="decay",
    config=DecayConfig,
    task="contextual_rnn.experiments.tasks.decay:DecayTask",
    title="Linear cosine decay",
    metrics=(
        Metric("validation_squared_error", "squared error", "log"),
        Metric("free_running_squared_error", "free-running error", curve=False),
        Metric("mean_scale", "mean sigma", curve=False),
    ),
    measures=(SQUARED_ERROR, FREE_RUNNING),
    trajectories=True,
    text="From an initial value and a period that was not in training, the network generates the whole curve, each "
    "prediction added to the last value and fed back. The zero state has no context; it gets the period at every step "
    "instead.",
    drawings=(
        ("decay.svg", "Figure 3: the model, with a sampled initial state."),
        ("decay_sequence.svg", "Figure 4: the function of the task, with period 4."),
    ),
    curves="Figure 5: squared error of the scaled step, on periods that training lacks; normal at its mean state.",
)

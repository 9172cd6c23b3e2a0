"""Associative retrieval: its options, with the paper's defaults, and how its runs are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from contextual_rnn._timing import Timing
from contextual_rnn.experiments.config.entry import Measure, Metric, TaskEntry, epochs_to, final
from contextual_rnn.experiments.config.options import StateName, TrainingConfig, at_least

Start = Literal["sound", "wenke2019"]
Leaves = Literal["h", "h+a"]
Network = Literal["fast_weights", "lstm"]
Ingredient = Literal["none", "embedding", "weights", "bias", "norm", "readout", "letters"]
INGREDIENTS: tuple[Ingredient, ...] = get_args(Ingredient)
STARTS = {"wenke2019": "The authors' own start", "sound": "A sound start"}
SHORT_STARTS = {"wenke2019": "the authors' own", "sound": "sound"}


@dataclass(frozen=True)
class RetrievalConfig(TrainingConfig):
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
            at_least(name, getattr(self, name), 0)
        for name in ("pairs", "units", "readout_units", "inner_steps", "train_samples", "validation_samples"):
            at_least(name, getattr(self, name), 1)
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


ACCURACY = Measure("validation_accuracy", final("validation_accuracy"), more_is_better=True, share=True)
TO_95 = Measure("epochs_to_95", epochs_to(0.95, "validation_accuracy"))
TO_99 = Measure("epochs_to_99", epochs_to(0.99, "validation_accuracy"))

RETRIEVAL = TaskEntry(
    name="retrieval",
    config=RetrievalConfig,
    task="contextual_rnn.experiments.tasks.retrieval:RetrievalTask",
    title="Associative retrieval",
    metrics=(
        Metric("validation_accuracy", "accuracy", "share"),
        Metric("validation_log_likelihood", "log-likelihood", "negative", axis="validation log-likelihood (nats)"),
    ),
    measures=(ACCURACY, TO_95, TO_99),
    columns=("state", "start", "timing", "leaves"),
    titles={"start": STARTS},
    text="After pairs of a letter and a digit, as in c9k8j3f1??k, the network names the digit of the letter asked "
    "for: 8.",
    drawings=(("retrieval.svg", "Figure 1: the model. The context is the embedding of the first character."),),
    curves="Figure 2: accuracy and log-likelihood on the validation set; the likelihood before training lies below.",
)

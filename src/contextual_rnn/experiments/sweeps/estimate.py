"""How long runs will take, from a few steps of a few of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

from contextual_rnn.experiments.config import Config
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.training.threads import threads

WARM_UP, STEPS, MOST_TRIED = 3, 20, 5


def estimated_seconds(configs: Sequence[Config]) -> list[float]:
    """Seconds that each run would take alone; runs that are not tried cost an epoch what the tried ones do."""
    if not configs:
        return []
    tried = list(dict.fromkeys(configs[i * len(configs) // MOST_TRIED] for i in range(MOST_TRIED)))
    _seconds(tried[0])  # what PyTorch does at first use is not counted
    measured = {config: _seconds(config) for config in tried}
    start = statistics.mean(start for start, _ in measured.values())
    epoch = statistics.mean(epoch for _, epoch in measured.values())
    return [a + b * config.epochs for config in configs for a, b in [measured.get(config, (start, epoch))]]


def in_words(seconds: float) -> str:
    """`4 s`, `9 min`, `2 h 5 min`, rounded up."""
    if seconds <= 90:
        return f"{math.ceil(seconds)} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _seconds(config: Config) -> tuple[float, float]:
    """To start the run, and an epoch."""
    with threads(config.threads):
        begin = time.perf_counter()
        training = Training(config)
        built = time.perf_counter()
        for k in range(WARM_UP):
            training.step(k)
        warm = time.perf_counter()
        for k in range(WARM_UP, WARM_UP + STEPS):
            training.step(k)
        trained = time.perf_counter()
        training.evaluate(final=False)
        evaluated = time.perf_counter()
    return built - begin, (trained - warm) / STEPS * training.batches.per_epoch + evaluated - trained

"""What `contextual-rnn sweep` prints, before, during and after training."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import Config, task_name
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.folder import CONFIG, RESULT, Run, finished
from contextual_rnn.experiments.runs.store import Place
from contextual_rnn.experiments.runs.summary import summary, table
from contextual_rnn.experiments.stats.measures import MEASURES
from contextual_rnn.experiments.sweeps import sweep as sweeps
from contextual_rnn.experiments.sweeps.estimate import estimated_seconds


def _finished(configs: Sequence[Config], folder: Place) -> list[bool]:
    with store.readable(folder, (CONFIG, RESULT)) as found:
        return [finished(config, found / sweeps.folder_name(config)) for config in configs]


def dry_run(configs: Sequence[Config], folder: Place, together: int) -> int:
    left = []
    for config, done in zip(configs, _finished(configs, folder), strict=True):
        print(f"{'finished' if done else 'to train'}  {store.below(folder, sweeps.folder_name(config))}")
        if not done:
            left.append(config)
    seconds = sum(estimated_seconds(left))
    print(
        f"{len(configs)} runs, {len(left)} to train: about {_time(seconds)} of training, "
        f"{_time(seconds / min(together, len(left) or 1))} with {together} side by side"
    )
    return 0


def _time(seconds: float) -> str:
    return tqdm.format_interval(math.ceil(seconds))


def describe(done: int, total: int) -> None:
    interrupts.describe(f"with {done} of {total} runs done")


def show(bar: Any, progress: sweeps.Progress) -> None:
    describe(progress.done, progress.total)
    bar.initial = progress.skipped
    texts = [f"{progress.running} running", f"{len(progress.failed)} failed"]
    if best := _best(progress):
        texts.append(best)
    bar.set_postfix_str(", ".join(texts), refresh=False)
    bar.update(len(progress.outcomes) - bar.n)


def _best(progress: sweeps.Progress) -> str:
    found = [
        (measure.more_is_better, outcome.result["final"][measure.name], name, measure.name)
        for name, outcome in progress.outcomes.items()
        if outcome.result is not None and "diverged" not in outcome.result
        for measure in MEASURES[name.partition("-")[0]][:1]
    ]
    if not found:
        return ""
    _, value, name, metric = max(found, key=lambda each: each[1] if each[0] else -each[1])
    return f"best {metric} {value:.4g} ({name})"


def print_end(configs: Sequence[Config], folder: Place, progress: sweeps.Progress, *, as_json: bool) -> None:
    results = {name: outcome.result for name, outcome in progress.outcomes.items() if outcome.result is not None}
    runs = [
        Run(Path(name), task_name(config), config, [], results[name])
        for config in configs
        if (name := sweeps.folder_name(config)) in results
    ]
    diverged = [str(run.folder) for run in runs if not run.converged]
    if as_json:
        told = {"folder": str(folder), "runs": len(configs), "skipped": progress.skipped, "retried": progress.retried}
        print(json.dumps({**told, "diverged": diverged, "failed": progress.failed, "summary": summary(runs)}))
    else:
        if runs:
            print(table(runs))
        print(f"sweep: {folder}: {len(runs)} of {len(configs)} runs done, {len(diverged)} of them diverged")
    for name, error in progress.failed.items():
        last = [line for line in error.splitlines() if line and not line[0].isspace()][-1]
        print(f"failed: {store.below(folder, name)}: {last}", file=sys.stderr)

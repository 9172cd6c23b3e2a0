"""What `contextual-rnn sweep` prints, before, during and after training."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.cli.program import print_answer, report_command
from contextual_rnn.experiments.config import Config, config_to_dict, task_name, tasks
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.folder import CONFIG, METRICS, RESULT, Run, finished, read_run
from contextual_rnn.experiments.runs.store import Place
from contextual_rnn.experiments.runs.summary import summary
from contextual_rnn.experiments.stats.finals import table
from contextual_rnn.experiments.stats.measures import value_of
from contextual_rnn.experiments.sweeps import sweep as sweeps
from contextual_rnn.experiments.sweeps.estimate import estimated_seconds, in_words


def _varied(configs: Iterable[Config]) -> list[dict[str, Any]]:
    """For each run, the options that differ between runs, without those that the names of their folders say."""
    options = [config_to_dict(config) for config in configs]
    names = set().union(*options) - {"state", "seed"}
    varied = {name for name in names if any(each.get(name) != options[0].get(name) for each in options)}
    return [{name: value for name, value in each.items() if name in varied} for each in options]


def dry_run(configs: Mapping[str, Config], folder: Place, together: int) -> int:
    left: list[Config] = []
    with store.readable(folder, (CONFIG, RESULT)) as copy:
        done_before = [finished(config, copy / name) for name, config in configs.items()]
    for (name, config), done, varied in zip(configs.items(), done_before, _varied(configs.values()), strict=True):
        options = [f"{option}={value}" for option, value in varied.items()]
        print("finished" if done else "to train", store.below(folder, name), *options, sep="  ")
        if not done:
            left.append(config)
    seconds = sum(estimated_seconds(left))
    print(
        f"{len(configs)} run{'s' * (len(configs) != 1)}, {len(left)} to train: about {in_words(seconds)} of training, "
        f"{in_words(seconds / min(together, len(left) or 1))} with {together} side by side"
    )
    return 0


def show(bar: Any, progress: sweeps.Progress) -> None:
    interrupts.describe_runs(progress.done, progress.total)
    bar.initial = progress.skipped
    texts = [f"{progress.running} running", f"{len(progress.failed)} failed"]
    if best := _best(progress):
        texts.append(best)
    bar.set_postfix_str(", ".join(texts), refresh=False)
    bar.update(len(progress.outcomes) - bar.n)


def _best(progress: sweeps.Progress) -> str:
    finals: list[tuple[float, str]] = []
    for name, outcome in progress.outcomes.items():
        if outcome.result is not None and "diverged" not in outcome.result:
            entry = tasks()[name.partition("-")[0]]
            run = Run(Path(name), entry.name, Config(), [], outcome.result)
            for measure in entry.measures[:1]:
                with contextlib.suppress(ValueError):  # it reads the lines of the epochs, which are not at hand
                    value = value_of(measure, run)
                    rank = value if measure.more_is_better else -value
                    finals.append((rank, f"best {measure.name} {value:.4g} ({name})"))
    return max(finals, key=lambda best: best[0], default=(0.0, ""))[1]


def print_end(configs: Mapping[str, Config], folder: Place, progress: sweeps.Progress, *, as_json: bool) -> None:
    done = [name for name, outcome in progress.outcomes.items() if outcome.result is not None]
    with store.readable(folder, (CONFIG, METRICS, RESULT)) as copy:
        read = {name: read_run(copy / name) for name in done}
    sentences = answer(list(read.values()))
    runs = [read[name] for name in configs if name in read]
    diverged = [run.folder.name for run in runs if not run.converged]
    if as_json:
        counts = {"folder": str(folder), "runs": len(configs), "skipped": progress.skipped, "retried": progress.retried}
        lists = {"diverged": diverged, "failed": progress.failed, "answer": sentences, "summary": summary(runs)}
        print(json.dumps({**counts, **lists}))
    else:
        if runs:
            print(table(runs))
        print(f"sweep: {folder}: {len(runs)} of {len(configs)} runs done, {len(diverged)} of them diverged")
        print(f"next: {report_command(folder, [task_name(config) for config in configs.values()])}")
        print_answer(sentences)
    for name, reason in progress.reasons.items():
        print(f"failed: {store.below(folder, name)}: {reason}", file=sys.stderr)

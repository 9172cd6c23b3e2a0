"""Tables on runs: final figures of every run, and what the seeds of a group say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from contextual_rnn.diagnostics import Diagnosis
from contextual_rnn.experiments.config import BASELINE, TaskEntry, chosen
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.runs.summary import status
from contextual_rnn.experiments.stats.contrast import contrast
from contextual_rnn.experiments.stats.groups import Group, differing
from contextual_rnn.experiments.stats.intervals import Interval, median_interval
from contextual_rnn.experiments.stats.measures import values_by_seed
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.stats.wording import option_text, words

DIAGNOSIS = ("state", "loss", "zeroed", "mean of all", "shuffled", "p", "half-life, steps", "burn-in, steps")


def final_figures(entry: TaskEntry, runs: Sequence[Run]) -> Table:
    """A row for each run of a task, finished or not."""
    texts = [*map(words, entry.columns), "other options"]
    numbers = ["seed", "epochs", "parameters", *(metric.label for metric in entry.metrics), "minutes"]
    return Table(entry.title, [*texts, *numbers], [_row(entry, run) for run in runs], len(texts))


def _row(entry: TaskEntry, run: Run) -> list[str]:
    options = chosen(run.config, *entry.columns, "seed", "epochs")
    others = [f"{words(name)} {option_text(value)}" for name, value in options.items()]
    last = (run.metrics or [{}])[-1]
    final, seconds = run.result["final"] if run.result else last, (run.result or last).get("seconds")
    return [
        *(str(getattr(run.config, name)) for name in entry.columns),
        ", ".join(others) or "-",
        str(run.config.seed),
        f"{int(final.get('epoch', 0))} of {run.config.epochs}" + ("" if run.converged else f", {status(run)}"),
        _number((run.result or {}).get("parameters"), ","),
        *(_number(final.get(each.name), ".2%" if each.scale == "share" else ".4g") for each in entry.metrics),
        _number(None if seconds is None else seconds / 60, ".1f"),
    ]


def over_seeds(groups: Sequence[Group]) -> list[Table]:
    """What the seeds of each group say: medians, and what each state gains over zero, with intervals.

    Only runs that converged count; groups of single seeds are left out.
    """
    header = ["state", "measure", "seeds", "median", "gain over zero", "probability of improvement"]
    tables: list[Table] = []
    for group in groups:
        if rows := _gains(group):
            texts, apart = group.texts(), differing([each for each in groups if each.entry is group.entry])
            title = [group.entry.title, *group.titles(), *(texts[name] for name in apart if name in texts)]
            tables.append(Table(", ".join(filter(None, title)), header, rows, texts=2))
    return tables


def _gains(group: Group) -> list[list[str]]:
    if max(sum(run.converged for run in group.of_state(state)) for state in group.states) < 2:
        return []
    rows: list[list[str]] = []
    for measure in group.entry.measures:
        form = ".2%" if measure.share else ".4g"
        for state in group.states:
            if values := list(values_by_seed(group.of_state(state), measure).values()):
                zero = None if state == BASELINE else contrast(group.of_state(state), group.of_state(BASELINE), measure)
                gain, improvement = (zero.gain, zero.improvement) if zero else (None, None)
                numbers = [
                    _interval(median_interval(values), form),
                    _interval(gain, form),
                    _interval(improvement, ".4g"),
                ]
                rows.append([state, words(measure.name), str(len(values)), *numbers])
    return rows


def _interval(interval: Interval | None, form: str) -> str:
    if interval is None:
        return "-"
    estimate, low, high = ("never" if math.isinf(value) else _number(value, form) for value in interval)
    return f"{estimate} ({low} to {high})" if not math.isnan(interval.low) else f"{estimate} (one seed)"


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return format(value, form) if math.isfinite(value) else "non-finite"


def numbers_of(diagnosis: Diagnosis) -> list[str]:
    """A row of the table of diagnoses, under `DIAGNOSIS` but the state."""
    of_state = diagnosis.overall  # without permutations, as of a single series, none is shuffled
    losses = [f"{of_state[name]:.3g}" if name in of_state else "-" for name in ("true", "zeroed", "mean", "shuffled")]
    p_value = "-" if diagnosis.p_value is None else f"{diagnosis.p_value:.2g}"
    half_life = "-" if diagnosis.half_life is None else f"{diagnosis.half_life:.3g}".replace("inf", "does not fade")
    half_life = half_life.replace("nan", "not finite")
    longer = "" if diagnosis.influence is None else f"more than {diagnosis.influence.length}"
    if diagnosis.influence is not None and diagnosis.influence.not_finite_from is not None:
        longer = "-"
    return [*losses, p_value, half_life, longer if diagnosis.burn_in is None else str(diagnosis.burn_in)]

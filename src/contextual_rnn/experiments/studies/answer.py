"""What runs say in short, as plain data: each task's states beside zero, over seeds and settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from contextual_rnn.experiments.config import BASELINE, STATES, TaskEntry, in_order, tasks
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import Contrast, Verdict, contrast
from contextual_rnn.experiments.stats.groups import Group, groups_of, nearest_to_defaults
from contextual_rnn.experiments.stats.intervals import Interval, median_interval
from contextual_rnn.experiments.stats.measures import values_by_seed
from contextual_rnn.experiments.studies.catalogue import AUTHORS, DECAY, SOUND, study

# Studies at the paper's scale: where they are among the runs, others of the same start do not count in the answer.
PAPER = (AUTHORS, SOUND, DECAY)
MOST_SETTINGS = 60  # of a start; of a larger sweep those nearest to the defaults


class Pair(NamedTuple):
    """A state beside zero in one setting: a contrast for each measure of the task, by its name."""

    state: str
    group: Group
    contrasts: Mapping[str, Contrast]


class Comparison(NamedTuple):
    """The pairs of one task under one title, such as a start; `sides` counts them by the side of the first measure."""

    titles: Mapping[str, str]
    pairs: Sequence[Pair]
    sides: Mapping[Verdict, int]


class Finding(NamedTuple):
    """A task, and what it says; where no run can be compared with zero, the runs that finished and a median alone."""

    entry: TaskEntry
    comparisons: Sequence[Comparison]
    finished: int
    seeds: int  # the fewest of a pair
    states: Sequence[str]
    median: Interval | None  # of the first measure


def findings_of(runs: Sequence[Run]) -> list[Finding]:
    """A finding for each task with a finished run, in the order of the registry."""
    by_task = [[run for run in runs if run.task == task and run.converged] for task in tasks()]
    return [_finding(each) for each in by_task if each]


def _finding(runs: Sequence[Run]) -> Finding:
    groups = groups_of(runs)
    entry = groups[0].entry
    by_titles = [list(same) for _, same in groupby(groups, _titles)]
    comparisons = [each for same in by_titles if (each := _comparison(same)).pairs]
    counts = [len(next(iter(pair.contrasts.values())).seeds) for each in comparisons for pair in each.pairs]
    states = in_order(run.config.state for run in runs)
    values = [values_by_seed(groups[0].of_state(groups[0].runs[0].config.state), each) for each in entry.measures[:1]]
    median = median_interval(list(values[0].values())) if values and values[0] else None
    return Finding(entry, comparisons, len(runs), min(counts, default=0), states, median)


def _titles(group: Group) -> dict[str, Any]:
    return {name: group.settings.get(name) for name in group.entry.titles}


def _comparison(groups: Sequence[Group]) -> Comparison:
    counted = [group for group in groups if any(study(run) in PAPER for run in group.runs)] or list(groups)
    pairs = [pair for group in nearest_to_defaults(counted, MOST_SETTINGS) for pair in _pairs(group)]
    sides = Counter(next(iter(pair.contrasts.values())).side for pair in pairs)
    return Comparison(_titles(groups[0]), pairs, {side: sides[side] for side in ("ahead", "level", "behind")})


def _pairs(group: Group) -> list[Pair]:
    """Of the paper's states the one that knows most, context or normal; of others all."""
    states = [state for state in in_order(run.config.state for run in group.runs) if state != BASELINE]
    states = [state for state in states if state in STATES][-1:] or states
    seen = {
        state: {
            measure.name: each
            for measure in group.entry.measures
            if (each := contrast(group.of_state(state), group.of_state(BASELINE), measure)) is not None
        }
        for state in states
    }
    return [Pair(state, group, contrasts) for state, contrasts in seen.items() if contrasts]

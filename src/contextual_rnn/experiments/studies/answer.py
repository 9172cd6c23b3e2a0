"""What runs say in short, as plain data: each task's states beside zero, over seeds and settings."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from contextual_rnn.experiments.config import BASELINE, STATES, Config, TaskEntry, chosen, in_order, named_file, tasks
from contextual_rnn.experiments.runs.folder import Run, option_words
from contextual_rnn.experiments.runs.summary import status
from contextual_rnn.experiments.stats.contrast import Contrast, Verdict, contrast
from contextual_rnn.experiments.stats.groups import (
    FREE_IN_A_COMPARISON,
    Group,
    all_differing,
    groups_of,
    nearest_to_defaults,
)
from contextual_rnn.experiments.stats.intervals import median_interval
from contextual_rnn.experiments.stats.measures import values_by_seed
from contextual_rnn.experiments.stats.wording import words
from contextual_rnn.experiments.studies.catalogue import AUTHORS, DECAY, SOUND, study

# Studies at the paper's scale: where they are among the runs, others of the same start do not count in the answer.
PAPER = (AUTHORS, SOUND, DECAY)
MOST_SETTINGS = 60  # of a start; of a larger sweep those nearest to the defaults

# Why nothing is compared: no run has the first measure; too few have finished; there is no zero state, or no other one;
# no settings or no seed are those of both.
Obstacle = Literal["measure", "finished", "zero", "other", "settings", "seed"]


class Pair(NamedTuple):
    """A state beside zero in one setting: a contrast for each measure of the task, by its name."""

    state: str
    title: str  # of the state
    group: Group
    contrasts: Mapping[str, Contrast]

    @property
    def first(self) -> Contrast:
        """The contrast in the task's first measure."""
        return self.contrasts[self.group.entry.measures[0].name]


class Beside(NamedTuple):
    """One state beside zero in each setting; `sides` counts the settings by the side of the first measure."""

    title: str
    pairs: Sequence[Pair]
    sides: Mapping[Verdict, int]

    @property
    def side(self) -> Verdict:
        """The side of more than half of the settings, else level."""
        most = max(self.sides, key=lambda side: self.sides[side])
        return most if 2 * self.sides[most] > len(self.pairs) else "level"


class Comparison(NamedTuple):
    """The states of one task under one title, such as a start."""

    title: str
    titles: Mapping[str, str]
    states: Sequence[Beside]
    settings: int
    best: Pair  # with the best value of the first measure, of either state
    named: Sequence[str]  # its setting, where there are several: the options in which they differ
    seeds: Sequence[int]  # of each pair
    diverged: int  # runs of these states and settings

    @property
    def pairs(self) -> list[Pair]:
        """Of all states."""
        return [pair for each in self.states for pair in each.pairs]


class Setting(NamedTuple):
    """One state in one setting: its median of the first measure."""

    named: Sequence[str]  # the state and the options, as far as settings differ in them
    config: Config
    value: float
    seeds: int


class Status(NamedTuple):
    """How many runs are finished, diverged or unfinished, and the titles of their states."""

    name: str
    runs: int
    states: Sequence[str]


class Finding(NamedTuple):
    """A task, and what it says; where no run can be compared with zero, why, and its settings, best first."""

    entry: TaskEntry
    comparisons: Sequence[Comparison]
    statuses: Sequence[Status]
    settings: Sequence[Setting]
    obstacle: Obstacle | None
    differing: Sequence[str]  # options in which the runs that finished differ
    sweep: str  # the command that compares; empty where no other state than zero is known


def findings_of(runs: Sequence[Run]) -> list[Finding]:
    """A finding for each task of the runs: those that compare, then others, each in the order of the registry."""
    runs = sorted(runs, key=lambda run: repr(run.config))  # so that equal values are named alike wherever they are
    by_task = [[run for run in runs if run.task == task] for task in tasks()]
    return sorted((_finding(each) for each in by_task if each), key=lambda finding: not finding.comparisons)


def _finding(runs: Sequence[Run]) -> Finding:
    groups = groups_of(runs, FREE_IN_A_COMPARISON)
    entry = groups[0].entry
    by_titles = [list(same) for _, same in groupby(groups, _titles)]
    comparisons = [each for same in by_titles if (each := _comparison(same))]
    by_status = {name: [run for run in runs if status(run) == name] for name in ("finished", "diverged", "unfinished")}
    statuses = [
        Status(name, len(each), [_title(entry, state) for state in in_order(run.config.state for run in each)])
        for name, each in by_status.items()
        if each
    ]
    settings = _settings(groups)
    return Finding(
        entry,
        comparisons,
        statuses,
        settings,
        None if comparisons else _obstacle(groups, settings),
        [words(name) for name in all_differing(groups_of(by_status["finished"], FREE_IN_A_COMPARISON))],
        _sweep(settings[0].config if settings else runs[0].config, runs),
    )


def _titles(group: Group) -> dict[str, Any]:
    return {name: group.settings.get(name) for name in group.entry.titles}


def _title(entry: TaskEntry, state: str) -> str:
    """A state in words: as the task titles it, "context state" for the paper's, else with its name in quotes."""
    return entry.titles.get("state", {}).get(state) or (f"{state} state" if state in STATES else f'state "{state}"')


def _comparison(groups: Sequence[Group]) -> Comparison | None:
    counted = [group for group in groups if any(study(run) in PAPER for run in group.runs)] or list(groups)
    states = _states([pair for group in nearest_to_defaults(counted, MOST_SETTINGS) for pair in _pairs(group)])
    pairs = [pair for each in states for pair in each.pairs]
    if not pairs:
        return None
    compared = [group for group in counted if any(pair.group is group for pair in pairs)]
    names = {BASELINE, *(pair.state for pair in pairs)}
    best = max(pairs, key=_goodness)
    return Comparison(
        groups[0].title(),
        _titles(groups[0]),
        states,
        len(compared),
        best,
        [best.group.texts()[name] for name in all_differing(compared)],
        [len(pair.first.seeds) for pair in pairs],
        sum(status(run) == "diverged" for group in compared for run in group.runs if run.config.state in names),
    )


def _goodness(pair: Pair) -> tuple[float, float]:
    """A sort key: the better value of the state and zero, then that of the state."""
    sign = 1 if pair.group.entry.measures[0].more_is_better else -1
    ours, theirs = sign * pair.first.ours.estimate, sign * pair.first.theirs.estimate
    return max(ours, theirs), ours


def _pairs(group: Group) -> list[Pair]:
    """Of every state that shares a seed with zero."""
    pairs: list[Pair] = []
    for state in (state for state in group.states if state != BASELINE):
        contrasts = {
            measure.name: each
            for measure in group.entry.measures
            if (each := contrast(group.of_state(state), group.of_state(BASELINE), measure)) is not None
        }
        if group.entry.measures and group.entry.measures[0].name in contrasts:
            pairs.append(Pair(state, _title(group.entry, state), group, contrasts))
    return pairs


def _states(pairs: Sequence[Pair]) -> list[Beside]:
    """All states; of the paper's alone the one in most settings, of several the one that knows most."""
    by_state = {state: [pair for pair in pairs if pair.state == state] for state in in_order(p.state for p in pairs)}
    if by_state.keys() <= set(STATES):
        most = max(map(len, by_state.values()), default=0)
        by_state = dict([(state, each) for state, each in by_state.items() if len(each) == most][-1:])
    return [Beside(each[0].title, each, _sides(each)) for each in by_state.values()]


def _sides(pairs: Sequence[Pair]) -> dict[Verdict, int]:
    sides = Counter(pair.first.side for pair in pairs)
    return {side: sides[side] for side in ("ahead", "level", "behind")}


def _settings(groups: Sequence[Group]) -> list[Setting]:
    """Every state in every setting that has the first measure, best first."""
    if not groups[0].entry.measures:
        return []
    measure = groups[0].entry.measures[0]
    values = [
        (group, state, list(of_state.values()))
        for group in groups
        for state in group.states
        if (of_state := values_by_seed(group.of_state(state), measure))
    ]
    options = all_differing([group for group, _, _ in values])
    several = len({state for _, state, _ in values}) > 1
    settings = [
        Setting(
            [*([f"the {_title(group.entry, state)}"] if several else []), *(group.texts()[name] for name in options)],
            group.of_state(state)[0].config,
            median_interval(each).estimate,
            len(each),
        )
        for group, state, each in values
    ]
    return sorted(settings, key=lambda setting: setting.value, reverse=measure.more_is_better)


def _obstacle(groups: Sequence[Group], settings: Sequence[Setting]) -> Obstacle:
    begun = {run.config.state for group in groups for run in group.runs}
    finished = {run.config.state for group in groups for run in group.runs if run.converged}
    if finished and not settings:
        return "measure"
    if BASELINE not in begun:
        return "zero" if finished else "finished"
    if begun == {BASELINE}:
        return "other" if finished else "finished"
    if BASELINE not in finished or finished == {BASELINE}:
        return "finished"
    shared = [{run.config.state for run in group.runs if run.converged} for group in groups]
    return "seed" if any(BASELINE in states and len(states) > 1 for states in shared) else "settings"


def _sweep(config: Config, runs: Sequence[Run]) -> str:
    """The command that compares the states of the runs, or the task's own, with the options of `config`."""
    task = runs[0].task
    states = [state for state in in_order(run.config.state for run in runs) if state != BASELINE]
    states = states or [state for state in [type(config).state] if state != BASELINE]
    options = chosen(config, "state", "seed")
    try:
        for state in (BASELINE, *states):
            dataclasses.replace(config, state=state)
    except ValueError:  # options of one state alone
        options = {}
    grid = ["--grid", f"state={','.join([BASELINE, *states])}", "--seeds", "5"]
    command = ["contextual-rnn", "sweep", named_file(task) or task, *option_words(type(config), options), *grid]
    return shlex.join(command) if states else ""

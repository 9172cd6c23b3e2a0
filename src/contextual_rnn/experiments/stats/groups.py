"""Groups of runs that may share a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contextual_rnn.experiments.config import COMPUTED_BY, TaskEntry, chosen, config_to_dict, entry_of, in_order, tasks
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.measures import one_of_each
from contextual_rnn.experiments.stats.wording import option_text, words

# Runs are compared that differ in these alone.
FREE_IN_A_COMPARISON = ("task", "state", "seed", *COMPUTED_BY)
# In one picture they may differ in their epochs too. Nothing in training depends on how many are still to come, so that
# a longer run goes on where a shorter one ends.
FREE_IN_A_PICTURE = (*FREE_IN_A_COMPARISON, "epochs")


@dataclass(frozen=True)
class Group:
    """Runs that share `settings`; one run for each state and seed."""

    settings: dict[str, Any]
    runs: list[Run]

    @property
    def entry(self) -> TaskEntry:
        return entry_of(self.runs[0].config)

    @property
    def states(self) -> list[str]:
        return in_order(run.config.state for run in self.runs)

    def of_state(self, state: str) -> list[Run]:
        return [run for run in self.runs if run.config.state == state]

    def titles(self) -> list[str]:
        """What the task calls this group's settings, such as "A sound start"."""
        titles = self.entry.titles
        return [titles[name].get(str(self.settings[name]), "") for name in titles if name in self.settings]

    def title(self) -> str:
        """Its titles as one; the task's where it has none."""
        return ": ".join(filter(None, self.titles())) or self.entry.title

    def texts(self) -> dict[str, str]:
        """Each setting as words, by its name."""
        return {name: f"{words(name)} {option_text(value)}" for name, value in self.settings.items()}


def groups_of(runs: Sequence[Run], free: Sequence[str] = FREE_IN_A_PICTURE) -> list[Group]:
    """The runs in groups that differ in the options `free` alone, by default those that share one picture.

    They are sorted by task and in the order of their titles, else in that of the runs. Of runs of the same state and
    seed the one is kept that `one_of_each` chooses.
    """
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {name: value for name, value in config_to_dict(run.config).items() if name not in free}
        groups.setdefault(json.dumps([run.task, settings]), Group(settings, [])).runs.append(run)
    for group in groups.values():
        group.runs[:] = sorted(one_of_each(group.runs), key=lambda run: run.folder)
    order = list(tasks())
    return sorted(groups.values(), key=lambda g: (order.index(g.entry.name), _places(g.entry, g.settings)))


def place(run: Run) -> tuple[object, ...]:
    """A sort key for runs of one task: by what the tables show first, the order of titles where an option has some."""
    entry, options = entry_of(run.config), config_to_dict(run.config)
    columns = [str(options[name]) for name in entry.columns if name not in ("state", *entry.titles)]
    return *_places(entry, options), *columns


def _places(entry: TaskEntry, options: dict[str, Any]) -> tuple[int, ...]:
    orders = [(options.get(name), list(titles)) for name, titles in entry.titles.items()]
    return tuple(order.index(option) if option in order else len(order) for option, order in orders)


def differing(groups: Sequence[Group]) -> list[str]:
    """Settings without titles of their own in which groups of one task are not all alike."""
    return [name for name in all_differing(groups) if name not in groups[0].entry.titles]


def all_differing(groups: Sequence[Group]) -> list[str]:
    """Settings in which groups of one task are not all alike."""
    first = groups[0].settings if groups else {}
    return [name for name, value in first.items() if any(group.settings.get(name) != value for group in groups)]


def changed(run: Run) -> int:
    """How many options but the seed and the epochs are not at their defaults."""
    return len(chosen(run.config, "seed", "epochs"))


def nearest_to_defaults(groups: Sequence[Group], count: int) -> list[Group]:
    """At most `count` groups, those with the fewest options changed, in the given order."""
    indices = sorted(range(len(groups)), key=lambda index: changed(groups[index].runs[0]))[:count]
    return [groups[index] for index in sorted(indices)]

"""Groups of runs that may share a picture, and what the groups say about the authors' start and a sound one."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from contextual_rnn.experiments.config import COMPUTED_BY, STATES
from contextual_rnn.experiments.results import Run, config_to_dict

STARTS = {"wenke2019": "The authors' own start", "sound": "A sound start"}
SHORT = {"wenke2019": "the authors' own", "sound": "sound"}
# In one picture runs may differ in these. With a constant step size nothing in training depends on how many epochs are
# still to come, so that a longer run goes on where a shorter one ends.
FREE_IN_A_PICTURE = ("task", "state", "seed", "epochs", *COMPUTED_BY)
# A lead in accuracy that counts; one standard error of 70 % on the 20,000 validation sequences is 0.003.
GAP = 0.05


@dataclass(frozen=True)
class Group:
    """Runs that share `settings`, all but those free in a picture; one run for each state and seed."""

    settings: dict[str, Any]
    runs: list[Run]

    def accuracies(self) -> dict[str, float]:
        """Median final validation accuracy, a fraction, of every state that has finished runs."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            value = run.result["final"].get("validation_accuracy", math.nan) if run.result is not None else math.nan
            if math.isfinite(value):
                found.setdefault(run.config.state, []).append(value)
        return {state: statistics.median(found[state]) for state in STATES if state in found}


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups that share one picture, the authors' start first, else in the order of the runs.

    Of runs of the same state and seed a finished one is kept, else the longest.
    """
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {name: value for name, value in config_to_dict(run.config).items() if name not in FREE_IN_A_PICTURE}
        if run.config.schedule != "constant":
            settings["epochs"] = run.config.epochs
        groups.setdefault(json.dumps(settings), Group(settings, [])).runs.append(run)
    for group in groups.values():
        best: dict[tuple[str, int], Run] = {}
        for run in sorted(group.runs, key=lambda run: (run.result is not None, len(run.metrics))):
            best[run.config.state, run.config.seed] = run
        group.runs[:] = sorted(best.values(), key=lambda run: run.folder)
    return sorted(groups.values(), key=lambda group: group.settings.get("start") == "sound")


def finding(groups: Sequence[Group]) -> str | None:
    """One sentence on whether the gap between the states is a matter of the start, from the two most similar groups.

    None unless both starts have finished runs of one contextual state and of one state without a context.
    """
    by_start = [[group for group in groups if group.settings["start"] == start] for start in STARTS]
    leads = [(authors, sound, _leads(authors, sound)) for authors, sound in product(*by_start)]
    possible = [candidate for candidate in leads if candidate[2] is not None]
    if not possible:
        return None
    authors, sound, lead = min(possible, key=lambda candidate: len(differing(candidate[:2])))
    assert lead is not None
    seen = f"under the authors' start {_accuracies(authors)}; under a sound start {_accuracies(sound)}"
    also = ", ".join(
        f"{words(name)} ({shown(authors.settings.get(name))} and {shown(sound.settings.get(name))})"
        for name in differing((authors, sound))
    )
    return f"{_verdict(*lead)}: {seen}" + (f"; the two also differ in {also}." if also else ".")


def _leads(*groups: Group) -> tuple[float, ...] | None:
    """By how much the contextual state's accuracy leads in each group, for the first pair of states that all have."""
    accuracies = [group.accuracies() for group in groups]
    shared = set.intersection(*map(set, accuracies))
    for contextual, other in product(("context", "normal"), ("zero", "free")):
        if {contextual, other} <= shared:
            return tuple(found[contextual] - found[other] for found in accuracies)
    return None


def _verdict(authors: float, sound: float) -> str:
    if max(authors, sound) < GAP:
        return "The contextual state does not end ahead under either start"
    if sound >= authors:
        return "The gap between the states is not a matter of the authors' start, since a sound start has it too"
    if sound < GAP and sound <= authors / 4:
        return "The gap between the states is a matter of the start"
    return "The gap between the states is smaller under a sound start, but does not vanish"


def _accuracies(group: Group) -> str:
    finished = sorted({run.config.epochs for run in group.runs if run.result is not None})
    values = ", ".join(f"{state} {value:.1%}" for state, value in group.accuracies().items())
    return f"{values} after {' to '.join(map(str, dict.fromkeys((finished[0], finished[-1]))))} epochs"


def differing(groups: Sequence[Group]) -> list[str]:
    """Settings but the start in which the groups are not all alike."""
    first, *others = [group.settings for group in groups]
    return [name for name in first if name != "start" and any(other.get(name) != first[name] for other in others)]


def words(name: str) -> str:
    """An option's name as words."""
    return name.replace("_", " ")


def shown(value: object) -> str:
    """An option's value as the page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "default"
    return f"{value:,}" if isinstance(value, int) else str(value)

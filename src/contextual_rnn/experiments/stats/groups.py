"""Groups of runs that may share a picture, and a sentence that compares the authors' start with a sound one."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from contextual_rnn.experiments.config import COMPUTED_BY, STATES, config_to_dict
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import ENDS, Contrast, contrast
from contextual_rnn.experiments.stats.measures import MEASURES, one_of_each, values_by_seed
from contextual_rnn.experiments.stats.wording import STARTS, interval, option_text, words

# In one picture runs may differ in these. With a constant step size nothing in training depends on how many epochs are
# still to come, so that a longer run goes on where a shorter one ends.
FREE_IN_A_PICTURE = ("task", "state", "seed", "epochs", *COMPUTED_BY)
ACCURACY = MEASURES["retrieval"][0]
# A lead in accuracy of one seed that counts; one standard error of 70 % on the 20,000 validation sequences is 0.003.
GAP = 0.05


@dataclass(frozen=True)
class Group:
    """Runs that share `settings`, all but those free in a picture; one run for each state and seed."""

    settings: dict[str, Any]
    runs: list[Run]

    def accuracies(self) -> dict[str, float]:
        """Median final validation accuracy, a fraction, of every state that has runs that converged."""
        by_state = {state: values_by_seed(self.of_state(state), ACCURACY) for state in STATES}
        return {state: statistics.median(values.values()) for state, values in by_state.items() if values}

    def of_state(self, state: str) -> list[Run]:
        """The runs of one state."""
        return [run for run in self.runs if run.config.state == state]


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups that share one picture, the authors' start first, else in the order of the runs.

    Of runs of the same state and seed the one is kept that `one_of_each` chooses.
    """
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {name: value for name, value in config_to_dict(run.config).items() if name not in FREE_IN_A_PICTURE}
        if run.config.schedule != "constant":
            settings["epochs"] = run.config.epochs
        groups.setdefault(json.dumps(settings), Group(settings, [])).runs.append(run)
    for group in groups.values():
        group.runs[:] = sorted(one_of_each(group.runs), key=lambda run: run.folder)
    return sorted(groups.values(), key=lambda group: group.settings.get("start") == "sound")


def finding(groups: Sequence[Group]) -> str | None:
    """One sentence on whether the gap between the states is a matter of the start, from the two most similar groups.

    None unless both starts have runs that converged of one contextual state and of one state without a context, with
    a seed in common.
    """
    by_start = [[group for group in groups if group.settings["start"] == start] for start in STARTS]
    pairs = [(pair, states) for pair in product(*by_start) if (states := _states_of(pair)) is not None]
    if not pairs:
        return None
    (authors, sound), states = min(pairs, key=lambda candidate: len(differing(candidate[0])))
    numbers = f"under the authors' start {_accuracies(authors)}; under a sound start {_accuracies(sound)}"
    also = ", ".join(
        f"{words(name)} ({option_text(authors.settings.get(name))} and {option_text(sound.settings.get(name))})"
        for name in differing((authors, sound))
    )
    end = f"; the two also differ in {also}." if also else "."
    return f"{_verdict(authors, sound, *states)}: {numbers}{end}"


def _states_of(groups: Sequence[Group]) -> tuple[str, str] | None:
    """The first contextual state, and state without a context, that share a seed in each group."""
    for contextual, other in product(("context", "normal"), ("zero", "free")):
        if all(_beside(group, contextual, other) is not None for group in groups):
            return contextual, other
    return None


def _beside(group: Group, contextual: str, other: str) -> Contrast | None:
    return contrast(group.of_state(contextual), group.of_state(other), ACCURACY)


def _verdict(authors: Group, sound: Group, contextual: str, other: str) -> str:
    """For several seeds the words of `findings`; for a single seed a sentence on the gap."""
    seen = [_beside(group, contextual, other) for group in (authors, sound)]
    contrasts = [each for each in seen if each is not None and each.gain is not None]
    gains = [each.gain for each in contrasts if each.gain is not None]
    if any(each.verdict == "open" for each in contrasts):
        return _gap(*(gain.estimate for gain in gains))
    texts = [f"{ENDS[each.verdict]} the {other} state" for each in contrasts]
    points = [f"{interval(gain, 'points')} points" for gain in gains]
    settings = ", ".join(f"{name} {option_text(authors.settings[name])}" for name in ("leaves", "timing"))
    return (
        f"With {settings} a {contextual} state {texts[0]} in accuracy under the authors' start ({points[0]}) and "
        f"{texts[1]} under a sound start ({points[1]})"
    )


def _gap(authors: float, sound: float) -> str:
    if max(authors, sound) < GAP:
        return "The contextual state does not end ahead under either start"
    if sound >= authors:
        return "The gap between the states is not a matter of the authors' start, since a sound start has it too"
    if sound < GAP and sound <= authors / 4:
        return "The gap between the states is a matter of the start"
    return "The gap between the states is smaller under a sound start, but does not vanish"


def _accuracies(group: Group) -> str:
    finished = sorted({run.config.epochs for run in group.runs if run.converged})
    values = ", ".join(f"{state} {value:.1%}" for state, value in group.accuracies().items())
    return f"{values} after {' to '.join(map(str, dict.fromkeys((finished[0], finished[-1]))))} epochs"


def differing(groups: Sequence[Group]) -> list[str]:
    """Settings but the start in which the groups are not all alike."""
    first, *others = [group.settings for group in groups]
    return [name for name in first if name != "start" and any(other.get(name) != first[name] for other in others)]

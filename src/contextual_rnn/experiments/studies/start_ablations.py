"""The effect of each ingredient of the authors' start, and controls that test explanations of a gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from contextual_rnn.experiments.config import COMPUTED_BY, INGREDIENTS, RetrievalConfig, in_order
from contextual_rnn.experiments.config.retrieval import ACCURACY, SHORT_STARTS, STARTS
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import Contrast, contrast
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.stats.intervals import median_interval
from contextual_rnn.experiments.stats.measures import values_by_seed
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.stats.wording import interval, spread

INGREDIENT_TEXTS = {
    "embedding": "embedding at zero, for a normal one",
    "weights": "W and C as 0.05 on the diagonal, for C uniform",
    "bias": "bias uniform, for one at zero",
    "norm": "layer norm without gain and bias",
    "readout": "He start of heads and readout, for torch's own",
    "letters": "letters a to y, for a to z",
}
DEFAULTS = dataclasses.asdict(RetrievalConfig()).items()


class Control(NamedTuple):
    """A variant of a run that tests an explanation of a gain."""

    text: str
    state: str
    options: Mapping[str, Any]


CONTROLS = (
    Control("context", "context", {}),
    Control("free", "free", {}),
    Control("zero, as many parameters in the readout", "zero", {"readout_units": 158}),
    Control("zero, the context at every step", "zero", {"context_input": True}),
    Control("context of another sequence", "context", {"shuffled_context": True}),
    Control("zero, no fast weights", "zero", {"rate": 0.0}),
    Control("context, no fast weights", "context", {"rate": 0.0}),
)

Choices = Mapping[frozenset[tuple[str, Any]], list[Run]]


def by_choice(runs: Iterable[Run]) -> Choices:
    """Retrieval runs by the options that are not at their default; seed, epochs and `COMPUTED_BY` aside."""
    choices: dict[frozenset[tuple[str, Any]], list[Run]] = {}
    for run in runs:
        if isinstance(run.config, RetrievalConfig):
            choices.setdefault(_choice(dataclasses.asdict(run.config)), []).append(run)
    return choices


def _choice(options: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    aside = ("seed", "epochs", *COMPUTED_BY)
    return frozenset(item for item in options.items() if item not in DEFAULTS and item[0] not in aside)


def ingredient_contrasts(runs: Choices, start: str, state: str = "zero") -> dict[str, Contrast]:
    """For each ingredient: `state` with it taken from the other start, against `state` under `start` as it is."""
    of_start = {"state": state, "start": start}
    sides = {name: _runs(runs, **of_start, switched=name) for name in INGREDIENTS}
    contrasts = {name: contrast(sides[name], sides["none"], ACCURACY) for name in INGREDIENTS if name != "none"}
    return {name: seen for name, seen in contrasts.items() if seen is not None}


def _runs(runs: Choices, **options: Any) -> list[Run]:
    return runs.get(_choice(options), [])


def ingredient_table(runs: Choices) -> Table | None:
    """A row for each start, ingredient and state that has runs; None where there are none."""
    rows = [
        [SHORT_STARTS[start], state, INGREDIENT_TEXTS[name], *_numbers(seen)]
        for start in STARTS
        for state in ("zero", "free", "context")
        for name, seen in ingredient_contrasts(runs, start, state).items()
    ]
    header = ["start", "state", "taken from the other start", "seeds", "accuracy", "gain over the start as it is"]
    return Table("Ingredients of the starts, switched alone", header, rows, texts=3) if rows else None


def control_contrasts(runs: Choices, start: str) -> dict[str, Contrast]:
    """Each control against the zero state of the same start."""
    zero = _runs(runs, state="zero", start=start)
    contrasts = {
        control.text: contrast(_runs(runs, state=control.state, start=start, **control.options), zero, ACCURACY)
        for control in CONTROLS
    }
    return {text: seen for text, seen in contrasts.items() if seen is not None}


def control_table(runs: Choices) -> Table | None:
    """A row for each start and control that has runs; None where there are none."""
    rows = [
        [SHORT_STARTS[start], text, *_numbers(seen)]
        for start in STARTS
        for text, seen in control_contrasts(runs, start).items()
    ]
    header = ["start", "state and control", "seeds", "accuracy", "gain over zero"]
    return Table("Controls", header, rows, texts=2) if rows else None


def _numbers(seen: Contrast) -> list[str]:
    return [str(len(seen.seeds)), interval(seen.ours, "share"), interval(seen.gain, "points")]


def accuracy_table(runs: Sequence[Run]) -> Table | None:
    """Final validation accuracy of finished retrieval runs, a row a group of settings; None where there are none.

    Medians over seeds with their bootstrap interval; runs of other epochs are in other rows.
    """
    by_epochs: dict[int, list[Run]] = {}
    for run in runs:
        if isinstance(run.config, RetrievalConfig):
            by_epochs.setdefault(run.config.epochs, []).append(run)
    states = ["zero", "free", "context"]
    states = in_order([*states, *(run.config.state for each in by_epochs.values() for run in each)])
    rows: list[list[str]] = []
    for epochs in sorted(by_epochs, reverse=True):
        for group in groups_of(by_epochs[epochs]):
            leaves = group.settings["leaves"].replace("h+a", "(h, A)")
            values = [list(values_by_seed(group.of_state(state), ACCURACY).values()) for state in states]
            if any(values):
                setting = [SHORT_STARTS[group.settings["start"]], f"{leaves}, {group.settings['timing']}", str(epochs)]
                medians = [interval(median_interval(each), "share") if each else "" for each in values]
                rows.append([*setting, spread(len(each) for each in values if each), *medians])
    header = ["start", "state, timing", "epochs", "seeds", *states]
    return Table("Accuracy on the validation set", header, rows, texts=2) if rows else None

"""The effect of each ingredient of the authors' start, and controls that test explanations of a gain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from contextual_rnn.experiments.config import COMPUTED_BY, INGREDIENTS, RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import Contrast, contrast
from contextual_rnn.experiments.stats.measures import MEASURES
from contextual_rnn.experiments.stats.wording import SHORT, STARTS, interval

ACCURACY = MEASURES["retrieval"][0]

INGREDIENT_TEXTS = {
    "embedding": "embedding at zero, for a normal one",
    "weights": "W and C as 0.05 on the diagonal, for C uniform",
    "bias": "bias uniform, for one at zero",
    "norm": "layer norm without gain and bias",
    "readout": "He start of heads and readout, for torch's own",
    "letters": "letters a to y, for a to z",
}


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


def select(runs: Iterable[Run], state: str, **options: Any) -> list[Run]:
    """Retrieval runs of `state` that differ from the defaults in `options` alone; seed, epochs, `COMPUTED_BY` aside."""
    wanted = vars(RetrievalConfig(state=state, **options))  # pyright: ignore[reportArgumentType]
    aside = {name: wanted[name] for name in ("seed", "epochs", *COMPUTED_BY)}
    return [run for run in runs if isinstance(run.config, RetrievalConfig) and vars(run.config) | aside == wanted]


def ingredient_contrasts(runs: Sequence[Run], start: str, state: str = "zero") -> dict[str, Contrast]:
    """For each ingredient: `state` with it taken from the other start, against `state` under `start` as it is."""
    whole = select(runs, state, start=start)
    contrasts = {
        name: contrast(select(runs, state, start=start, switched=name), whole, ACCURACY) for name in INGREDIENTS
    }
    return {name: seen for name, seen in contrasts.items() if seen is not None and name != "none"}


def ingredient_table(runs: Sequence[Run]) -> dict[str, Any] | None:
    """A row for each start, ingredient and state that has runs; None where there are none."""
    rows = [
        [SHORT[start], state, INGREDIENT_TEXTS[name], *_said(seen)]
        for start in STARTS
        for state in ("zero", "free", "context")
        for name, seen in ingredient_contrasts(runs, start, state).items()
    ]
    header = ["start", "state", "taken from the other start", "seeds", "accuracy", "gain over the start as it is"]
    title = "Ingredients of the starts, switched alone"
    return {"title": title, "header": header, "texts": 3, "rows": rows} if rows else None


def control_contrasts(runs: Sequence[Run], start: str) -> dict[str, Contrast]:
    """Each control against the zero state of the same start."""
    zero = select(runs, "zero", start=start)
    contrasts = {
        control.text: contrast(select(runs, control.state, start=start, **control.options), zero, ACCURACY)
        for control in CONTROLS
    }
    return {text: seen for text, seen in contrasts.items() if seen is not None}


def control_table(runs: Sequence[Run]) -> dict[str, Any] | None:
    """A row for each start and control that has runs; None where there are none."""
    rows = [
        [SHORT[start], text, *_said(seen)] for start in STARTS for text, seen in control_contrasts(runs, start).items()
    ]
    header = ["start", "state and control", "seeds", "accuracy", "gain over zero"]
    return {"title": "Controls", "header": header, "texts": 2, "rows": rows} if rows else None


def _said(seen: Contrast) -> list[str]:
    assert seen.gain is not None
    return [str(len(seen.seeds)), interval(seen.ours, "share"), interval(seen.gain, "points")]

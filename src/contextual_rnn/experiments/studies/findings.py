"""What reproduced and what did not, in plain words. An interval decides each sentence, which quotes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.contrast import ENDS, Contrast, Verdict, contrast
from contextual_rnn.experiments.stats.measures import MEASURES, Measure
from contextual_rnn.experiments.stats.wording import STARTS, Form, interval, minus
from contextual_rnn.experiments.studies.ba2016_table_1 import error_texts
from contextual_rnn.experiments.studies.calibration import calibration_finding
from contextual_rnn.experiments.studies.catalogue import (
    AUTHORS,
    CHOICES,
    CONTROLS,
    DECAY,
    INGREDIENTS,
    MAP,
    SOUND,
    TABLE_1,
    runs_of,
)
from contextual_rnn.experiments.studies.gain_map import contrasts
from contextual_rnn.experiments.studies.start_ablations import control_contrasts, ingredient_contrasts

ACCURACY, TO_95, _ = MEASURES["retrieval"]
SQUARED_ERROR, FREE_RUNNING = MEASURES["decay"]
SOONER: dict[Verdict, str] = {
    "ahead": "sooner",
    "behind": "later",
    "level": "with no significant difference in epochs",
    "open": "in one seed",
}
SHORT = (MAP, INGREDIENTS, CONTROLS)
SHORT_NAMES = {"weights": "W and C", "norm": "layer norm"}


def findings(runs: Sequence[Run], calibrated: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """The findings by name, as many as the runs allow; a single seed allows none."""
    short = runs_of(runs, *SHORT)
    texts = {
        "authors": _paper_scale(runs_of(runs, AUTHORS), "Under the authors' own start", "(h, A)"),
        "sound": _paper_scale(runs_of(runs, SOUND), "Under a sound start", "(h, A)"),
        "choices": _choices(runs),
        "map": _map(runs_of(runs, MAP)),
        "ingredients": _ingredients(short),
        "controls": _controls(short),
        "table 1": _table_1(runs_of(runs, TABLE_1)),
        "decay": _decay(runs_of(runs, DECAY)),
        "calibration": calibration_finding(calibrated) if calibrated else None,
    }
    return {name: text for name, text in texts.items() if text}


def _paper_scale(runs: Sequence[Run], where: str, leaves: str) -> str | None:
    said = _of_states(runs)
    epochs = {run.config.epochs for run in runs if run.converged}
    return f"{where}, state {leaves}, after {max(epochs)} epochs, {said}." if said else None


def _choices(runs: Sequence[Run]) -> str | None:
    texts = []
    for name in CHOICES:
        study = runs_of(runs, name)
        if said := _of_states(study):
            config: Any = study[0].config
            leaves, start = "(h, A)" if config.leaves == "h+a" else "h alone", STARTS[config.start]
            texts.append(f"{start}, {leaves}, {config.timing}: {said}")
    return f"What the paper leaves open, chosen otherwise, at its scale. {'. '.join(texts)}." if texts else None


def _of_states(runs: Sequence[Run]) -> str:
    """The other states against zero; empty where no state has enough seeds."""
    texts = []
    for state in ("context", "free"):
        if (seen := beside_zero(runs, state, ACCURACY, TO_95)) is None:
            continue
        final, speed = seen
        texts.append(
            f"a {state} state {ENDS[final.verdict]} the zero state in accuracy, {_against(final, 'share')}, and "
            f"reaches 95 % {SOONER[speed.verdict]} ({_against(speed, 'epochs')} epochs; {len(final.seeds)} seeds)"
        )
    return "; ".join(texts)


def beside_zero(runs: Sequence[Run], state: str, *measures: Measure) -> list[Contrast] | None:
    """`state` against zero in every measure; None where a side has no runs or they share a single seed."""
    own, zero = ([run for run in runs if run.config.state == name] for name in (state, "zero"))
    contrasted = [seen for measure in measures if (seen := contrast(own, zero, measure)) is not None]
    return contrasted if len(contrasted) == len(measures) and contrasted[0].verdict != "open" else None


def _against(seen: Contrast, form: Form) -> str:
    gain = f", a gain of {interval(seen.gain, 'points')} points" if form == "share" and seen.gain else ""
    return f"{interval(seen.ours, form)} against {interval(seen.theirs, form)}{gain}"


def _map(runs: Sequence[Run]) -> str | None:
    sentences, cells = [], []
    for start, name in STARTS.items():
        of_start = [run for run in runs if getattr(run.config, "start", "") == start]
        texts = []
        for state in ("context", "free"):
            if seen := list(_of_several_seeds(contrasts(of_start, state)).values()):
                cells += seen
                texts.append(
                    f"a {state} state gains over the zero state in {_counted(seen, 'ahead')} of {len(seen)} cells, "
                    f"loses in {_counted(seen, 'behind')}, and shows no significant difference in "
                    f"{_counted(seen, 'level')}"
                )
        if texts:
            sentences.append(f"under {name.lower()} {'; '.join(texts)}")
    if not sentences:
        return None
    seeds = [len(seen.seeds) for seen in cells]
    counts = " to ".join(map(str, dict.fromkeys((min(seeds), max(seeds)))))
    epochs = max(run.config.epochs for run in runs if run.converged)
    return (
        f"When does it help (the map: accuracy after {epochs} epochs with h(0) alone, {counts} seeds a cell)? "
        f"{'. '.join(text[0].upper() + text[1:] for text in sentences)}. Were no state better anywhere, up to "
        f"{sum(seen.significant_by_chance for seen in cells):.0f} of these {len(cells)} would gain or lose by chance."
    )


def _counted(seen: Sequence[Contrast], verdict: Verdict) -> str:
    """How many there are, and what their gains are, as "3 (+0.42 to +27.76 points)"."""
    gains = sorted(100 * each.gain.estimate for each in seen if each.verdict == verdict and each.gain is not None)
    if not gains or verdict == "level":
        return str(sum(each.verdict == verdict for each in seen))
    ends = " to ".join(dict.fromkeys(minus(f"{gain:+.2f}") for gain in (gains[0], gains[-1])))
    return f"{len(gains)} ({ends} points)"


def _ingredients(runs: Sequence[Run]) -> str | None:
    authors, sound = (_of_several_seeds(ingredient_contrasts(runs, start)) for start in STARTS)
    texts = []
    if authors:
        texts.append(
            f"replacing one ingredient of the authors' start by the sound one, {_listed(authors, 'ahead')} raise the "
            f"zero state's accuracy, {_listed(authors, 'behind')} lower it, {_listed(authors, 'level')} make no "
            "significant difference"
        )
    if sound:
        texts.append(
            f"replacing one ingredient of a sound start by the authors', {_listed(sound, 'behind')} lower it, "
            f"{_listed(sound, 'ahead')} raise it"
        )
    seeds = [len(seen.seeds) for side in (authors, sound) for seen in side.values()]
    return f"Ingredients ({min(seeds)} seeds or more): {'; '.join(texts)}." if texts else None


def _of_several_seeds(seen: Mapping[Any, Contrast]) -> dict[Any, Contrast]:
    return {name: each for name, each in seen.items() if each.verdict != "open"}


def _listed(seen: Mapping[str, Contrast], verdict: Verdict) -> str:
    names = []
    for name, each in seen.items():
        if each.verdict == verdict:
            gain = "" if each.gain is None or verdict == "level" else f" by {interval(each.gain, 'points')} points"
            names.append(SHORT_NAMES.get(name, name) + gain)
    return ", ".join(names) or "none"


def _controls(runs: Sequence[Run]) -> str | None:
    texts = []
    for start, name in STARTS.items():
        seen = _of_several_seeds(control_contrasts(runs, start))
        gains = [f"{text} {interval(each.gain, 'points')}" for text, each in seen.items() if each.gain is not None]
        if gains:
            texts.append(f"under {name.lower()}: {', '.join(gains)}")
    return f"Controls, gain over zero in points of accuracy, {'; '.join(texts)}." if texts else None


def _table_1(runs: Sequence[Run]) -> str | None:
    texts = [f"{name} {', '.join(f'{error} units' for error in each)}" for name, each in error_texts(runs).items()]
    return f"Test error at 4 pairs: {'; '.join(texts)}." if texts else None


def _decay(runs: Sequence[Run]) -> str | None:
    texts = []
    for state in ("normal", "context"):
        if (seen := beside_zero(runs, state, SQUARED_ERROR, FREE_RUNNING)) is None:
            continue
        given, free = seen
        better = {"ahead": "below", "behind": "above", "level": "not significantly different from", "open": ""}
        texts.append(
            f"the {state} state's squared error is {better[given.verdict]} zero's ({_against(given, 'number')}), its "
            f"free-running error {better[free.verdict]} it ({_against(free, 'number')}; {len(given.seeds)} seeds)"
        )
    return f"Linear cosine decay: {'; '.join(texts)}." if texts else None

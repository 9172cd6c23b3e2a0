"""The answer of a comparison: a verdict, a gain with its interval, and what to use, as data and as three sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from contextual_rnn.experiments.compare.calibration import coverage_of
from contextual_rnn.experiments.compare.plan import Plan
from contextual_rnn.experiments.compare.runs import Arm
from contextual_rnn.experiments.config import BASELINE, PanelConfig, config_to_dict, entry_of
from contextual_rnn.experiments.config.panel import SMALLEST_GAIN
from contextual_rnn.experiments.stats.intervals import CONFIDENCE, Interval
from contextual_rnn.experiments.stats.verdict import Gain, Verdict, best_of, gain_by_step, gain_over, lasting
from contextual_rnn.experiments.stats.wording import minus, words
from contextual_rnn.experiments.tasks.panel import data_of

FIRST = {
    "helps": "A better initial state helps on these data.",
    "does not help": "A better initial state does not help on these data.",
    "cannot be decided": "Whether a better initial state helps cannot be decided with these data.",
}
NO_SCORES = ("prediction", "target", "draws_below")  # numbers of the test set whose mean says nothing


@dataclass(frozen=True)
class Answer:
    """The verdict on `best`, the arm with the least validation error among the candidates.

    `gain` is its gain over zero on the test set, and `over` that over each control. `by_step` has the gain at each step
    from the initial state on; empty where an error is one of a whole sequence. `use` is the arm to use. `rows` and
    `warnings` are those of the table, where it is one.
    """

    verdict: Verdict
    best: str
    use: str
    gain: Gain
    over: Mapping[str, Gain]
    by_step: tuple[Interval, ...]
    arms: Mapping[str, Arm]
    gains: Mapping[str, Gain]
    by_group: Mapping[str, Gain]
    titles: Mapping[str, str]
    candidates: int
    smallest: float
    rows: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def confidence(self) -> float:
        """The level of the interval, corrected for the number of arms that could have been chosen."""
        return 1 - (1 - CONFIDENCE) / self.candidates

    @property
    def lasts(self) -> int:
        """Steps from the initial state on with a gain that is significant."""
        return lasting(self.by_step)

    def title(self, arm: str) -> str:
        return self.titles.get(arm, f"{words(arm)} state")

    def sentences(self) -> list[str]:
        """Does it help; by how much; for how many steps, and what to use."""
        return [FIRST[self.verdict], self._by_how_much(), f"{self._how_long()}{self._what_to_use()}"]

    def _by_how_much(self) -> str:
        low, high = (percent(end) for end in (self.gain.share.low, self.gain.share.high))
        counts = f"{_count(self.gain.seeds, 'seed')} and {_count(self.gain.series, 'series', 'series')}"
        corrected = f", corrected for {self.candidates} states" if self.candidates > 1 else ""
        interval = f"95 % interval over {counts}{corrected}: {low} to {high}"
        if math.isnan(self.gain.share.low):
            interval = f"{counts}: no interval"
        gain = percent(self.gain.share.estimate)
        return f"The gain of the {self.title(self.best)} over the zero state is {gain} of the test error ({interval})."

    def _how_long(self) -> str:
        if not self.by_step or self.verdict != "helps":
            return ""
        if not self.lasts:
            return "No single step has a significant gain; "
        steps = "step" if self.lasts == 1 else f"{self.lasts} steps"
        return f"The gain is significant for the first {steps} of {len(self.by_step)}; "

    def _what_to_use(self) -> str:
        use = "use" if self._how_long() else "Use"
        text = f"{use} the {self.title(self.use)}"
        if self.verdict == "helps":
            better = [arm for arm, gain in self.over.items() if arm != BASELINE and gain.share.high < 0]
            return f"{text}." if not better else f"{text}, or the {self.title(better[0])}, whose error is lower still."
        if self.verdict == "does not help":
            return f"{text}: a gain of {percent(self.smallest)} or more is excluded."
        needed = self.series_needed()
        if needed is None:
            return f"{text}."
        return f"{text}; a gain of this size needs about {needed} test series to be significant."

    def series_needed(self) -> int | None:
        """Test series with which the interval would exclude 0 if the gain stays as it is; None for no gain."""
        estimate, low, _ = self.gain.share
        if self.gain.series < 2 or not estimate > 0 or math.isnan(low):
            return None
        return math.ceil(self.gain.series * ((estimate - low) / estimate) ** 2)

    def as_dict(self) -> dict[str, Any]:
        """For answer.json; what is not finite is null."""
        return {
            "verdict": self.verdict,
            "best": self.best,
            "use": self.use,
            "gain": {"share": _interval(self.gain.share), "error": _interval(self.gain.gain)},
            "confidence": self.confidence,
            "smallest_gain": self.smallest,
            "over": {arm: _interval(gain.share) for arm, gain in self.over.items()},
            "steps": self.lasts if self.by_step else None,
            "of_steps": len(self.by_step) or None,
            "seeds": self.gain.seeds,
            "series": self.gain.series,
            "sentences": self.sentences(),
            "rows": dict(self.rows) or None,
            "warnings": list(self.warnings),
            "gain_by_step": [_interval(gain) for gain in self.by_step],
            "gain_by_group": {name: {**_interval(g.share), "series": g.series} for name, g in self.by_group.items()},
            "arms": {name: self._arm(arm) for name, arm in self.arms.items()},
        }

    def _arm(self, arm: Arm) -> dict[str, Any]:
        run = arm.best_run
        assert run.result is not None
        diagnosis = arm.diagnosis
        return {
            "title": self.title(arm.name),
            "options": config_to_dict(run.config),
            "parameters": run.result.get("parameters"),
            "seconds": [_finite((arm.runs[seed].result or {}).get("seconds", math.nan)) for seed in arm.seeds],
            "validation_error": _finite(arm.validation),
            "test_error": _finite(arm.errors.mean()),
            "test_error_by_step": [_finite(error) for error in arm.errors.by_step()],
            "gain": None if arm.name == BASELINE else _interval(self.gains[arm.name].share),
            **{name: _finite(value) for name, value in scores_of(arm).items()},
            "coverage": {f"{nominal:.3f}": _interval(share) for nominal, share in coverage_of(arm).items()} or None,
            "half_life": None if diagnosis is None else _finite(diagnosis.half_life),
            "burn_in": None if diagnosis is None else diagnosis.burn_in,
            "p_value": None if diagnosis is None else diagnosis.p_value,
        }


def answer_of(plan: Plan, arms: Mapping[str, Arm], smallest: float = SMALLEST_GAIN) -> Answer:
    """The answer from arms that have been tested."""
    zero, count = arms[BASELINE], len(plan.candidates)
    best = arms[best_of({arm: arms[arm].validation for arm in plan.candidates})]
    gains = {name: gain_over(zero.errors, arm.errors, count) for name, arm in arms.items() if arm is not zero}
    gain = gains[best.name]
    verdict = gain.verdict(smallest)
    over = {name: gain_over(arms[name].errors, best.errors) for name in plan.controls if name in arms}
    steps = best.errors.values.shape[2]
    summary = data_of(plan.base).summary if isinstance(plan.base, PanelConfig) else {}
    return Answer(
        verdict=verdict,
        best=best.name,
        use=best.name if verdict == "helps" else BASELINE,
        gain=gain,
        over=over,
        by_step=tuple(gain_by_step(zero.errors, best.errors)) if steps > 1 else (),
        arms=arms,
        gains=gains,
        by_group=_by_group(zero, best),
        titles=entry_of(plan.base).titles.get("state", {}),
        candidates=count,
        smallest=smallest,
        rows=summary.get("rows", {}),
        warnings=tuple(summary.get("warnings", ())),
    )


def _by_group(zero: Arm, best: Arm) -> dict[str, Gain]:
    if zero.groups is None:
        return {}
    names = numpy.asarray(zero.groups)
    return {
        str(name): gain_over(zero.errors.part(names == name), best.errors.part(names == name))
        for name in numpy.unique(names)
    }


def scores_of(arm: Arm) -> dict[str, float]:
    """Means over seeds of what the task scores beside its error; of quantities RMSE, CRPS and Nash-Sutcliffe.

    `nash_sutcliffe` is 1 - sum (y - x)^2 / sum (y - mean y)^2 of each series, its median over series.
    """
    scores = {name: float(numpy.nanmean(v)) for name, v in arm.scores.items() if name not in NO_SCORES}
    if "prediction" in arm.scores:
        target = arm.scores["target"]
        squares = (arm.scores["prediction"] - target) ** 2
        scores["rmse"] = float(numpy.sqrt(numpy.nanmean(squares, axis=(1, 2))).mean())
        if target.shape[2] > 1:
            scores["nash_sutcliffe"] = _nash_sutcliffe(arm, squares, target)
    return scores


def _nash_sutcliffe(arm: Arm, squares: numpy.ndarray, target: numpy.ndarray) -> float:
    of_series = arm.errors.by_series
    variance = of_series(target**2) - of_series(target) ** 2
    known = variance > 0
    return float(numpy.median(1 - of_series(squares)[known] / variance[known])) if known.any() else math.nan


def percent(share: float) -> str:
    """As "12.3 %"."""
    return "unknown" if math.isnan(share) else minus(f"{100 * share:.3g} %")


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in interval._asdict().items()}

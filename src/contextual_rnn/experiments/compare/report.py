"""The report of a comparison: the answer first, two figures, then every number in folds."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from contextual_rnn.experiments.compare.answer import Answer, percent, scores_of
from contextual_rnn.experiments.compare.calibration import coverage_of
from contextual_rnn.experiments.compare.figures import gains_figure, steps_figure
from contextual_rnn.experiments.compare.plan import Plan
from contextual_rnn.experiments.compare.runs import Arm
from contextual_rnn.experiments.config import BASELINE, PanelConfig, entry_of
from contextual_rnn.experiments.report.page import Drawing, folds_of, inline, page
from contextual_rnn.experiments.report.tables import DIAGNOSIS, numbers_of
from contextual_rnn.experiments.runs.store import Place, below
from contextual_rnn.experiments.stats.intervals import Interval
from contextual_rnn.experiments.stats.tables import Table
from contextual_rnn.experiments.stats.wording import minus, option_text, words
from contextual_rnn.experiments.tasks.panel import data_of

REPORT = "report.html"
HERE = "contextual_rnn.experiments.compare"
FOLDS = {
    "arms": "Every arm",
    "controls": "Against the controls",
    "steps": "How long it lasts",
    "groups": "By group",
    "calibration": "Calibration",
    "costs": "Costs",
    "use": "Use it",
    "data": "The data, as they were understood",
    "settings": "Settings",
}
SCORES = {"rmse": "RMSE", "crps": "CRPS", "nash_sutcliffe": "Nash-Sutcliffe"}
CODE = """from contextual_rnn.experiments.compare.winner import Predictor

predictor = Predictor.from_pretrained({folder!r})
predictions = predictor.predict("new.parquet")  # a path, or a data frame: columns as in this comparison
print(predictions.to_pandas())

model = predictor.model  # a torch module: model.rnn is the network with its initial state
print(model.rnn)
"""


def render(plan: Plan, answer: Answer, place: Place) -> str:
    """The page of the comparison at `place`."""
    winner = str(below(place, "winner"))
    report = SimpleNamespace(
        arms=_arms(answer),
        controls=_controls(answer),
        steps=_steps(answer),
        fading=_fading(answer),
        groups=_groups(answer),
        calibration=_calibration(answer),
        costs=_costs(answer),
        settings=_settings(plan, answer),
        level=percent(answer.confidence),
        candidates=answer.candidates,
        unit=_unit(plan),
        chosen=f"It is the {answer.title(answer.best)}.",
        use=answer.title(answer.use),
        winner=shlex.quote(winner),
        code=CODE.format(folder=winner) if isinstance(plan.base, PanelConfig) else "",
        understood=understood(plan),
    )
    return page(
        "Does a better initial state help?",
        _subject(plan, answer),
        answer.sentences(),
        _pictures(plan, answer),
        folds_of("report.html.jinja", FOLDS, package=HERE, report=report),
    )


def understood(plan: Plan) -> str:
    """The table in plain words, empty for a task."""
    return data_of(plan.base).describe() if isinstance(plan.base, PanelConfig) else ""


def _subject(plan: Plan, answer: Answer) -> str:
    subject = entry_of(plan.base).title
    if isinstance(plan.base, PanelConfig):
        options = json.loads(plan.base.panel)
        subject = f"{options['columns']['target']} of {', '.join(Path(path).name for path in options['table'])}"
    return f"{subject}: {len(plan.arms)} arms, {answer.gain.seeds} seeds, {answer.gain.series} test series."


def _pictures(plan: Plan, answer: Answer) -> list[Drawing]:
    gains = {name: answer.gains[name].share for name in plan.arms if name != BASELINE}
    titled = {answer.title(name): gain for name, gain in gains.items()}
    drawing = inline(gains_figure(titled, answer.title(answer.best)), "gains")
    level = percent(answer.confidence)
    pictures = [Drawing(drawing, f"Gain of each arm on the test set, with intervals of {level}.")]
    if answer.by_step:
        errors = {name: arm.errors.by_step() for name, arm in answer.arms.items()}
        figure = steps_figure({words(name): values for name, values in errors.items()}, "mean test error")
        pictures.append(
            Drawing(inline(figure, "steps"), "Error by step from the initial state, mean over series and seeds.")
        )
    return pictures


def _arms(answer: Answer) -> Table:
    scores = {name: scores_of(arm) for name, arm in answer.arms.items()}
    names = list(dict.fromkeys(name for of_arm in scores.values() for name in of_arm))
    header = ["arm", "validation error", "test error", "gain over zero", *(SCORES.get(n, words(n)) for n in names)]
    rows = [
        [
            answer.title(name),
            _number(arm.validation),
            _number(arm.errors.mean()),
            "-" if name == BASELINE else share_of(answer.gains[name].share),
            *(_number(scores[name].get(score, math.nan)) for score in names),
        ]
        for name, arm in answer.arms.items()
    ]
    return Table("On the test set", header, rows)


def _controls(answer: Answer) -> Table | None:
    rows = [[answer.title(name), share_of(gain.share)] for name, gain in answer.over.items()]
    return Table(f"Gain of the {answer.title(answer.best)} over", ["control", "gain"], rows) if rows else None


def _steps(answer: Answer) -> Table | None:
    if not answer.by_step:
        return None
    rows = [
        [str(step), "{} ({} to {})".format(*map(_number, gain))] for step, gain in enumerate(answer.by_step, start=1)
    ]
    title = f"Gain of the {answer.title(answer.best)} over the zero state at each step, with intervals of 95 %"
    return Table(title, ["step", "gain in error"], rows, texts=0)


def _fading(answer: Answer) -> Table:
    diagnosed = {name: arm.diagnosis for name, arm in answer.arms.items() if arm.diagnosis is not None}
    rows = [[answer.title(name), *numbers_of(diagnosis)[-3:]] for name, diagnosis in diagnosed.items()]
    return Table("Influence of the start", ["arm", *DIAGNOSIS[-3:]], rows)


def _groups(answer: Answer) -> Table | None:
    rows = [[name, str(gain.series), share_of(gain.share)] for name, gain in answer.by_group.items()]
    return Table(f"Gain of the {answer.title(answer.best)}", ["group", "series", "gain"], rows) if rows else None


def _calibration(answer: Answer) -> Table | None:
    rows = [
        [answer.title(name), percent(nominal), share_of(share)]
        for name, arm in answer.arms.items()
        for nominal, share in coverage_of(arm).items()
    ]
    return Table("Targets inside a band of the draws", ["arm", "should be", "are"], rows) if rows else None


def _costs(answer: Answer) -> Table:
    header = ["arm", "parameters", "seconds of a run", "runs that diverged"]
    return Table("Costs", header, [[answer.title(name), *_cost(arm)] for name, arm in answer.arms.items()])


def _cost(arm: Arm) -> list[str]:
    results = [arm.runs[seed].result or {} for seed in arm.seeds]
    seconds = sum(result["seconds"] for result in results) / len(results)
    diverged = sum(not run.converged for run in arm.runs.values())
    return [f"{results[0].get('parameters', 0):,}", f"{seconds:.1f}", str(diverged)]


def _settings(plan: Plan, answer: Answer) -> Mapping[str, str]:
    options = {name: value for name, value in vars(plan.base).items() if name not in ("state", "seed", *plan.grid)}
    texts = {words(name): option_text(value) for name, value in options.items()}
    searched = {words(name): ", ".join(map(option_text, values)) for name, values in plan.grid.items()}
    chosen = {
        answer.title(name): ", ".join(f"{words(n)} {option_text(getattr(arm.best_run.config, n))}" for n in plan.grid)
        for name, arm in answer.arms.items()
        if plan.grid
    }
    return {**searched, **chosen, **texts, "smallest gain that counts": percent(answer.smallest)}


def _unit(plan: Plan) -> str:
    if not isinstance(plan.base, PanelConfig):
        return ""
    if data_of(plan.base).target.kind == "category":
        return ", cross entropy in nats"
    return ", squared, in units of the target's variance in training; RMSE and CRPS are in its own unit"


def share_of(interval: Interval) -> str:
    ends = "" if math.isnan(interval.low) else f" ({percent(interval.low)} to {percent(interval.high)})"
    return f"{percent(interval.estimate)}{ends}"


def _number(value: float) -> str:
    return "-" if not math.isfinite(value) else minus(f"{value:.4g}")

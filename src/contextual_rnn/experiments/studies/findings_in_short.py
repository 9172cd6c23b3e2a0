"""The five most important findings, for the README and the head of the report, by the rules of `findings`."""

from __future__ import annotations

from collections.abc import Sequence

from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.wording import STARTS, interval
from contextual_rnn.experiments.studies.ba2016_table_1 import error_texts
from contextual_rnn.experiments.studies.catalogue import (
    AUTHORS,
    AUTHORS_BA2016,
    DECAY,
    INGREDIENTS,
    MAP,
    SOUND,
    SOUND_BA2016,
    TABLE_1,
    runs_of,
)
from contextual_rnn.experiments.studies.findings import (
    ACCURACY,
    FREE_RUNNING,
    SHORT_NAMES,
    SOONER,
    SQUARED_ERROR,
    TO_95,
    beside_zero,
)
from contextual_rnn.experiments.studies.gain_map import contrasts
from contextual_rnn.experiments.studies.start_ablations import ingredient_contrasts

LEVEL = "not significantly different"
IN_THE_END = {"ahead": "ahead", "behind": "behind", "level": LEVEL, "open": LEVEL}


def in_short(runs: Sequence[Run]) -> list[str]:
    """Those of the five that the runs allow; a single seed allows none."""
    lines = [
        _paper_scale(runs),
        _map(runs_of(runs, MAP)),
        _plateau(runs_of(runs, MAP, INGREDIENTS)),
        _table_1(runs_of(runs, TABLE_1)),
        _decay(runs_of(runs, DECAY)),
    ]
    return [line for line in lines if line]


def _paper_scale(runs: Sequence[Run]) -> str | None:
    texts = []
    for name in (AUTHORS, AUTHORS_BA2016, SOUND, SOUND_BA2016):
        study = runs_of(runs, name)
        seen = beside_zero(study, "context", ACCURACY, TO_95)
        if seen is None or (final := seen[0]).gain is None:
            continue
        speed, config = seen[1], study[0].config
        assert isinstance(config, RetrievalConfig)
        texts.append(
            f"under {STARTS[config.start].lower()}, {config.timing}, past 95 % {SOONER[speed.verdict]} "
            f"({interval(speed.ours, 'epochs')} against {interval(speed.theirs, 'epochs')} epochs) and "
            f"{IN_THE_END[final.verdict]} in the end ({interval(final.gain, 'points')} points; "
            f"{len(final.seeds)} seeds)"
        )
    return f"The paper's scale, (h, A), a context state beside the zero state: {'; '.join(texts)}." if texts else None


def _map(runs: Sequence[Run]) -> str | None:
    texts = []
    for start, name in STARTS.items():
        cells = contrasts([run for run in runs if getattr(run.config, "start", "") == start], "context")
        verdicts = [seen.verdict for seen in cells.values() if seen.verdict != "open"]
        if verdicts:
            texts.append(
                f"under {name.lower()} in {verdicts.count('ahead')} of {len(verdicts)} cells, worse in "
                f"{verdicts.count('behind')}"
            )
    return (
        f"After 30 epochs, h alone, a context state is better than the zero state {'; '.join(texts)}."
        if texts
        else None
    )


def _plateau(runs: Sequence[Run]) -> str | None:
    seen = ingredient_contrasts(runs, "wenke2019")
    removing = [
        f"{SHORT_NAMES.get(name, name)} ({interval(each.gain, 'points')} points)"
        for name, each in seen.items()
        if each.verdict == "ahead" and each.gain is not None
    ]
    if not removing:
        return None
    return f"Replacing only one of these in the authors' start removes the zero state's plateau: {', '.join(removing)}."


def _table_1(runs: Sequence[Run]) -> str | None:
    texts = [f"{name} {', '.join(each)} units" for name, each in error_texts(runs).items()]
    return f"Test error: {'; '.join(texts)}." if texts else None


def _decay(runs: Sequence[Run]) -> str | None:
    contrasted = beside_zero(runs, "normal", SQUARED_ERROR, FREE_RUNNING)
    if contrasted is None:
        return None
    given, free = contrasted
    words = {"ahead": "less", "behind": "more", "level": LEVEL, "open": LEVEL}
    texts = [
        f"{words[seen.verdict]} {where} ({interval(seen.ours, 'number')} against {interval(seen.theirs, 'number')})"
        for seen, where in ((given, "given the true values"), (free, "running free"))
    ]
    each = ", ".join(texts)
    return f"Decay, squared error of the normal state beside the zero state's: {each}; {len(given.seeds)} seeds."

"""The names of the folders of experiments that `results/evidence.sh` trains."""

from __future__ import annotations

from collections.abc import Iterable

from contextual_rnn.experiments.runs.folder import Run

MAP, INGREDIENTS, CONTROLS, TABLE_1 = "map", "ingredients", "controls", "table1"
# These have their own sections in the report, without pictures of curves.
ASIDE = (MAP, INGREDIENTS, CONTROLS, TABLE_1)
AUTHORS, SOUND = "retrieval-authors-start", "retrieval-sound-start-h+a"
# The paper's scale with what the paper leaves open chosen otherwise: h alone, the timing of Ba et al.
AUTHORS_BA2016, SOUND_BA2016 = f"{AUTHORS}-ba2016", f"{SOUND}-ba2016"
CHOICES = (f"{AUTHORS}-h", AUTHORS_BA2016, SOUND_BA2016)
PAPER_SCALE = (AUTHORS, SOUND, *CHOICES)
DECAY, CALIBRATED, TOGETHER = "decay-paper", "decay-calibration", "decay-ensembles"


def study(run: Run) -> str:
    """The name of the experiment that a run belongs to: its folder's folder."""
    return run.folder.parent.name


def runs_of(runs: Iterable[Run], *names: str) -> list[Run]:
    """The runs of the experiments of these names."""
    return [run for run in runs if study(run) in names]

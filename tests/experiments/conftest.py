import pytest
from tests import fresh

from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.sweeps import workers


@pytest.fixture
def quick_workers(monkeypatch):
    """The processes of a sweep start as forks of one that has imported PyTorch; others spawn theirs, as users do."""
    monkeypatch.setattr(workers, "START_METHOD", fresh.PROCESSES.get_start_method())


@pytest.fixture
def no_pictures(monkeypatch):
    """Figures are made and not rendered, for tests of what else a report has: to render them is most of its time."""
    monkeypatch.setattr(figures, "to_svg", lambda figure, name="figure", **_: "<svg></svg>")

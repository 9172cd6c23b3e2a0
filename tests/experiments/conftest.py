import pytest
from tests import fresh

from contextual_rnn.experiments.sweeps import workers


@pytest.fixture
def quick_workers(monkeypatch):
    """The processes of a sweep start as forks of one that has imported PyTorch; others spawn theirs, as users do."""
    monkeypatch.setattr(workers, "START_METHOD", fresh.PROCESSES.get_start_method())

import pytest

from contextual_rnn.experiments.report import figures


@pytest.fixture
def no_pictures(monkeypatch):
    """Figures are made and not rendered, for tests of what else a report has: to render them is most of its time."""
    monkeypatch.setattr(figures, "to_svg", lambda figure, name="figure", **_: "<svg></svg>")

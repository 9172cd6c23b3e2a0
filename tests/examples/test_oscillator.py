"""The example runs as a user runs it, in its small setting."""

import pytest
from tests.examples.running import run


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("oscillator", tmp_path)
    zero, window = (figures[name]["first 20 steps"]["seeds"] for name in ("zero", "window of 20"))
    ratio = figures["window of 20"]["first 20 steps / zero's"]
    assert len(zero) == 2
    assert ratio["seeds"] == pytest.approx([a / b for a, b in zip(window, zero, strict=True)])
    assert 0 < ratio["mean"] < 1, "even a little training is enough for the window to help"

"""The example runs as a user runs it, in its small setting."""

import pytest
from tests.examples.running import run


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("noise", tmp_path)
    assert set(figures["none"]) == {"error, 20 steps", "error, 200 steps", "wasserstein"}
    fixed, none = (figures[name]["wasserstein"]["seeds"] for name in ("fixed 0.3", "none"))
    gain = figures["fixed 0.3"]["wasserstein, less that of none"]["seeds"]
    assert gain == pytest.approx([a - b for a, b in zip(fixed, none, strict=True)])
    found = {name: tuple(figures[name]["error, 20 steps"]["seeds"]) for name in figures}
    assert len(set(found.values())) == len(found) == 5, "each noise gives a training of its own"

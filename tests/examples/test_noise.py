"""The example runs as a user runs it, in its small setting."""

from tests.examples.running import run


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("noise", tmp_path)
    assert set(figures["none"]) == {"error, 20 steps", "error, 200 steps", "wasserstein"}
    assert figures["wasserstein, less that of none"]["none"]["mean"] == 0
    found = {name: tuple(figures[name]["error, 20 steps"]["seeds"]) for name in list(figures)[:-1]}
    assert len(set(found.values())) == len(found) == 7, "each noise gives a training of its own"

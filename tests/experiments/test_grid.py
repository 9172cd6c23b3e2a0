"""Grids: every combination once, values of the right type, and words for what is refused."""

import io

import pytest

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.sweeps.grid import combinations, grid_from_file, grid_from_words


def test_every_combination_with_every_seed():
    base = RetrievalConfig(epochs=3)
    grid = grid_from_words(
        ["state=zero,context", "learning-rate=1,1e-3", "modified=true,false", "alphabet_size=none,9"]
    )
    configs = combinations(base, grid, seeds=3)
    assert len(set(configs)) == len(configs) == 2 * 2 * 2 * 2 * 3
    assert {config.epochs for config in configs} == {3}
    assert {(type(config.learning_rate), config.learning_rate) for config in configs} == {(float, 1.0), (float, 1e-3)}
    assert {config.modified for config in configs} == {True, False}
    assert {config.alphabet_size for config in configs} == {None, 9}
    assert [config.seed for config in configs[:4]] == [0, 1, 2, 0]
    assert combinations(base, {}) == [base]
    assert [config.seed for config in combinations(base, {"seed": ["4", "2"]})] == [4, 2]


def test_a_file_says_the_same_as_words(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text('state = ["zero", "context"]\nlearning-rate = [1, 1e-3]\nmodified = true\n')
    words = ["state=zero,context", "learning_rate=1,0.001", "modified=true"]
    base = RetrievalConfig()
    assert combinations(base, grid_from_file(path)) == combinations(base, grid_from_words(words))


@pytest.mark.parametrize(
    ("words", "seeds", "message"),
    [
        (["state"], None, "grid: expected option=value,value,..., got 'state'"),
        (["units=8,"], None, "grid: expected option=value,value,..., got 'units=8,'"),
        (["units=8", "units=9"], None, "grid: expected every option once, got units twice"),
        (["units=8,9,8"], None, "grid: expected every value of units once"),
        (["pears=3"], None, "grid: expected some of .*units.*, got pears"),
        (["units=many"], None, "grid: expected an int for units, got 'many'"),
        (["units=1.5"], None, "grid: expected an int for units, got '1.5'"),
        (["state=warm"], None, "grid: expected one of zero, free, context, normal for state, got 'warm'"),
        (["scale=0.1", "min_scale=0.2"], None, r"grid: the combination scale=0.1, min_scale=0.2 is refused: scale: "),
        (["seed=1"], 2, "seeds: expected either"),
        ([], 0, "seeds: expected at least 1, got 0"),
    ],
)
def test_refusals(words, seeds, message):
    with pytest.raises(ValueError, match=message):
        combinations(DecayConfig(), grid_from_words(words), seeds)


@pytest.mark.parametrize("text", ["state = zero", "units = []", "[units]\na = 1", "units = [1", "\x00"])
def test_files_that_are_no_grid_are_named(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"grid: .*{path}"):
        grid_from_file(path)


def test_a_file_is_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    path = tmp_path / "grid.toml"
    path.write_bytes("# Gr\xf6\xdfe\nunits = [8]\n".encode())
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    assert grid_from_file(path) == {"units": ["8"]}

"""results/evidence.sh: every command is one, and writes where the pages look for it."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from contextual_rnn.experiments.cli.main import parse
from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.studies import catalogue as studies
from contextual_rnn.experiments.sweeps.grid import combinations, grid_from_words
from contextual_rnn.experiments.sweeps.sweep import folder_name

SCRIPT = Path(__file__).parents[2] / "results" / "evidence.sh"


@pytest.fixture(scope="module")
def configs():
    """Every configuration by the name of its sweep."""
    found = {}
    told = subprocess.run(["sh", SCRIPT], env={**os.environ, "C": "echo"}, capture_output=True, text=True, check=True)
    for line in told.stdout.splitlines():
        options = parse(shlex.split(line)).task
        found.setdefault(Path(options.out).name, []).extend(combinations(options.config, grid_from_words(options.grid)))
    return found


def test_every_study_is_trained(configs):
    assert {*studies.ASIDE, studies.AUTHORS, studies.SOUND, studies.DECAY, studies.CALIBRATED} <= set(configs)


def test_the_map_is_whole(configs):
    cells = {folder_name(config): config for config in configs["map"] if config.seed < 5}
    assert len(cells) == 36 * 3 * 5, "units, pairs, timing and start; states; seeds"
    for config in [*cells.values(), *configs["ingredients"], *configs["controls"]]:
        assert (config.epochs, config.leaves) == (30, "h")


def test_as_many_parameters_elsewhere_are_as_many():
    """A contextual h(0) is a linear layer on an embedding of 100; a readout unit has 51 weights in and 37 out."""
    config = RetrievalConfig()
    assert 0 <= (158 - config.readout_units) * (config.units + 1 + 37) - config.units * 101 < config.units + 1 + 37


def test_paper_scale_is_the_papers(configs):
    for name in (studies.AUTHORS, studies.SOUND):
        assert {config.epochs for config in configs[name]} == {200}
        assert {(config.seed, config.state) for config in configs[name]} == {
            (seed, state) for seed in range(10) for state in ("zero", "free", "context")
        }
    assert {config.epochs for config in configs[studies.DECAY]} == {65}

"""docs/sweeps.md is true: its commands run, on tiny runs, and its grid is one."""

import re
import shlex
from pathlib import Path

from tests.experiments.test_sweep import Serial

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.sweeps import workers
from contextual_rnn.experiments.sweeps.grid import combinations, grid_from_file

DOCS = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text()


def blocks(language):
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE))


def test_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "local_workers", lambda count: Serial())
    commands = [shlex.split(line, comments=True) for line in blocks("sh").splitlines()]
    assert [words[1] for words in commands] == ["sweep", "sweep", "results", "report", "sweep"]
    small = str.maketrans("58", "22")
    for _, *words in commands:
        tiny = ["--samples-per-period", "8", "--epochs", "1"] if words[0] == "sweep" else []
        assert main([word.replace("64,128", "4,6").translate(small) for word in words] + tiny) == 0, words
    assert (tmp_path / "runs" / "sweep-decay" / "results.parquet").is_file()


def test_the_grid_of_the_file(tmp_path):
    (tmp_path / "grid.toml").write_text(blocks("toml"))
    assert len(combinations(DecayConfig(), grid_from_file(tmp_path / "grid.toml"), seeds=5)) == 20

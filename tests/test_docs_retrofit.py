"""docs/retrofit.md is true: its code runs in order, and its sizes are those of the files."""

import json
import re
from pathlib import Path

import pytest
from torch import nn

from contextual_rnn import FreeState
from contextual_rnn.serialization import save_state

PAGE = (Path(__file__).parents[1] / "docs" / "retrofit.md").read_text()


def test_code_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    scope = {"__name__": "retrofit"}
    exec(compile(code, "retrofit.md", "exec"), scope)
    shown = re.search(r"print\(error\)  # (.*) \.\.\.", PAGE)[1]
    assert capsys.readouterr().out.startswith(shown)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["between", "english", "french"]
    assert scope["loss"].isfinite()


@pytest.mark.parametrize(
    ("network", "size", "times"),
    [(nn.LSTM(8, 128), 1224, "1.195"), (nn.LSTM(8, 512, num_layers=2), 8400, "1.025"), (nn.GRU(8, 128), 632, "1.23")],
)
def test_sizes(network, size, times, tmp_path):
    h0 = FreeState(network)
    save_state(h0, tmp_path / "state")
    numbers = sum(4 * parameter.numel() for parameter in h0.parameters())
    assert (tmp_path / "state").stat().st_size == size
    assert size / numbers == pytest.approx(float(times), abs=0.005)
    assert f"{size}" in PAGE
    assert f"{times} times" in PAGE


def test_rates_of_the_voice_detector():
    """Where this fails after new results of the voice example: edit the table."""
    figures = json.loads((Path(__file__).parents[1] / "results" / "voice.json").read_text())["figures"]
    sizes = [figures[f"mean size of {name} after a second"]["mean"] for name in "hc"]
    assert f"| a published voice detector, 400 examples | {sum(sizes) / 2:.2f} |" in PAGE
    for rate, name in {
        0.01: "free state, rate 0.01",
        0.1: "free state, rate 0.1",
        0.3: "free state",
        1: "free state, rate 1",
    }.items():
        gain = figures[name]["AUC, 1st frame"]["mean"] - figures["nothing"]["AUC, 1st frame"]["mean"]
        assert f"| {rate} | {gain:.2f} of AUC |" in PAGE

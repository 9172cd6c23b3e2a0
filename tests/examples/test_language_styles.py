"""language_styles in its small setting, in this process; its baselines start as the network that they update."""

import importlib
import json
import sys

import pytest
import torch
from tests.examples.running import EXAMPLES


@pytest.fixture
def load(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


def test_it_ends_with_figures_and_a_picture(load, tmp_path):
    program = load("language_styles")
    assert len((EXAMPLES / "language_styles.py").read_text().splitlines()) <= 150
    out = tmp_path / "a folder that is not there yet"
    program.main(program.Options(quick=True, out=out))
    figures = json.loads((out / "language_styles.json").read_text())["figures"]
    assert (out / "language_styles.png").stat().st_size > 10_000
    assert list(figures) == ["Python", "documentation in capitals"]
    for ways in figures.values():
        sizes = {way: figure["numbers"] for way, figure in ways.items()}
        assert sizes["free state, 16"] == sizes["contextual state, 256"] == 2 * 4 * 8 * 16
        assert sizes["nothing, 64"] < sizes["output bias, 64"] < sizes["free state of one layer, 64"]
        assert sizes["LoRA, rank 1, 64"] < sizes["LoRA, rank 8, 64"] < sizes["everything, 64"]
        assert all(6 < figure["bits"]["mean"] < 10 for figure in ways.values()), "hardly trained"
        assert ways["nothing, 64"]["gain"]["mean"] == 0


def test_low_rank_updates_and_a_bias_start_as_nothing(load):
    parts = load("language_styles_model")
    torch.manual_seed(0)
    model = parts.new_model(32).requires_grad_(False)
    rows, context = torch.randint(256, (2, 9)), torch.randn(1, 256)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = parts.bits(model, None, rows, context)
    for extra in (parts.LowRank(model, 2), parts.Bias()):
        torch.testing.assert_close(parts.bits(model, extra, rows, context), plain)
        for parameter in extra.parameters():
            torch.nn.init.normal_(parameter)
        changed = parts.bits(model, extra, rows, context)
        assert (changed - plain).abs().max() > 0.01
        changed.mean().backward()
        assert all(parameter.grad.any() for parameter in extra.parameters())
    assert {name: tensor for name, tensor in model.state_dict().items()}.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_texts_are_of_their_style_and_those_of_the_test_are_others(load):
    data = load("language_styles_data")
    for name, style in (data.SEEN | data.UNSEEN).items():
        rows = {tuple(row) for row in data.texts(style, 64, torch.Generator().manual_seed(0)).tolist()}
        test = {tuple(row) for row in data.texts(style, 64, torch.Generator().manual_seed(0), test=True).tolist()}
        assert len(rows & test) <= 12, name  # licences repeat each other
        assert all(len(row) == data.LENGTH for row in rows)
    capitals = data.texts(data.UNSEEN["documentation in capitals"], 8, torch.Generator().manual_seed(0))
    assert bytes(capitals.flatten().tolist()).upper() == bytes(capitals.flatten().tolist())

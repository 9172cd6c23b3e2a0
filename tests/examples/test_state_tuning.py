"""The example in its small setting; its baseline starts as the network it updates, and every file has its size."""

import importlib
import sys

import pytest
import torch
from tests.examples.running import EXAMPLES, run

METHODS = {"nothing", "contextual state", "free state", "LoRA, rank 1", "LoRA, rank 4", "everything"}


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("state_tuning", tmp_path)
    assert len(figures) == 4
    for methods in figures.values():
        assert set(methods) == METHODS
        sizes = {name: methods[name]["bytes"] for name in METHODS}
        numbers = 2 * 32 * 4  # h and c
        assert numbers < sizes["free state"] < numbers + 210
        assert sizes["nothing"] < sizes["free state"] < sizes["LoRA, rank 1"] < sizes["LoRA, rank 4"]
        assert sizes["LoRA, rank 4"] < sizes["everything"]
        assert all(0 < share < 1 for method in methods.values() for share in method["accuracy"]["seeds"])
    assert {path.name for path in tmp_path.iterdir()} == {"state_tuning.json", "state_tuning.png"}


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    return importlib.import_module("state_tuning_model")


def test_a_low_rank_update_starts_as_nothing_and_is_the_product_of_its_factors(model):
    torch.manual_seed(0)
    writer = model.Writer(6).requires_grad_(False)
    update, rows = model.LowRank(writer.lstm, 2), torch.randint(0, len(model.SYMBOLS), (3, 5))
    torch.testing.assert_close(model.scores(writer, update, rows, rows[:, 0]), writer(rows))
    with torch.no_grad():
        for factor in update.b:
            factor.normal_()
    found = model.scores(writer, update, rows, rows[:, 0])
    merged = model.Writer(6)
    merged.load_state_dict(writer.state_dict())
    with torch.no_grad():
        merged.lstm.weight_ih_l0 += update.b[0] @ update.a[0]
        merged.lstm.weight_hh_l0 += update.b[1] @ update.a[1]
    torch.testing.assert_close(found, merged(rows))
    assert (found - writer(rows)).abs().max() > 0.01

"""The example runs as a user runs it, in its small setting; its measures are what they say."""

import importlib

import numpy
import pytest
import torch
from tests.examples.running import EXAMPLES, run


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("lfads", tmp_path)
    assert set(figures) == {"smoothing", "smoothing and 3 components", "LFADS", "zero state, encoder at every step"}
    lfads, zero = (figures[name]["R2 of rates"]["seeds"] for name in ("LFADS", "zero state, encoder at every step"))
    gain = figures["LFADS"]["R2 of rates, above the zero state's"]["seeds"]
    assert gain == pytest.approx([a - b for a, b in zip(lfads, zero, strict=True)])
    assert all(len(each["seeds"]) == 2 for variant in figures.values() for each in variant.values())


@pytest.fixture
def data(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("lfads_data")


def test_measures_are_those_of_the_truth_and_of_the_mean(data):
    spikes, rates, state = data.record(60, 20, 0)
    assert spikes.shape == rates.shape == (60, 20, data.NEURONS)
    assert data.r_squared(rates, rates) == 1
    mean = spikes.mean((0, 1)).expand_as(spikes)
    assert abs(data.bits_per_spike(mean, spikes)) < 1e-5
    # The truth is worth the mutual information of rate and count; another rate is worth less.
    assert data.bits_per_spike(rates, spikes) > data.bits_per_spike(rates * 1.5, spikes) > 0
    by_hand = (spikes * (rates / mean).log2()).sum() - ((rates - mean) / numpy.log(2)).sum()
    assert data.bits_per_spike(rates, spikes) == pytest.approx(float(by_hand / spikes.sum()), rel=1e-4)
    log_rates = rates.log()
    assert data.r_squared(data.decoded(log_rates[:40], state[:40], log_rates[40:]), state[40:]) > 0.999
    smoothed = data.without_dynamics(spikes[:40], spikes[40:], None, 4)
    assert smoothed.shape == (20, 20, data.NEURONS)
    assert torch.equal(data.record(60, 20, 0)[0], spikes)

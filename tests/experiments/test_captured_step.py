"""What a captured graph reads by address lives as long as the graph: tried with stand-ins for the graph, on the CPU."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch

from contextual_rnn.experiments.training import cuda_graph as captured_step
from contextual_rnn.ops import fast_weights
from contextual_rnn.ops._fast_weights import options as tables
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, decay_tables, holding_tables

LIKE = torch.zeros(2, 5, 3)


def options(decay):
    return FastWeightsOptions(1, decay, 0.5, True, "ba2016", 1e-5, False)


def fill_the_cache():
    """More settings than the cache has room for."""
    for k in range(100):
        decay_tables(options(0.001 * k), 7, LIKE)
    gc.collect()


@pytest.fixture
def graphs(monkeypatch):
    """torch.cuda without a GPU: what would be captured runs at once."""

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", type("CUDAGraph", (), {"replay": lambda self: None}))
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())


def test_a_captured_graph_holds_the_tables_that_it_reads(graphs, monkeypatch):
    read = []

    def watched(*arguments):
        read.append(result := decay_tables(*arguments))
        return result

    for module in ("attention", "autograd"):
        monkeypatch.setattr(f"contextual_rnn.ops._fast_weights.{module}.decay_tables", watched)
    leaves = torch.randn(2, 4, 3), torch.randn(3, 3), torch.randn(2, 3)

    def run():
        return fast_weights(*leaves, decay=0.3141)[0].sum()

    captured = captured_step.capture(run, run)
    places = {tensor.data_ptr() for pair in read for tensor in pair}
    assert len(places) == 2, "the captured call reads other tables than the ones before it"
    references = [weakref.ref(tensor) for tensor in read[-1]]
    read.clear()
    fill_the_cache()
    assert all(reference() is not None for reference in references)
    assert captured.replay() is captured.result
    del captured
    gc.collect()
    assert all(reference() is None for reference in references), "they outlive the graph"


def test_calls_outside_hold_nothing():
    with holding_tables() as held:
        inside = decay_tables(options(0.2718), 5, LIKE)
    decay_tables(options(0.2719), 5, LIKE)
    assert [*held.values()] == [inside]


def test_a_graph_of_somebody_else_makes_its_own_tables(monkeypatch):
    """Its memory is the graph's. In the cache they would have no numbers before the first replay."""
    like = torch.zeros(2, 5, 3)
    monkeypatch.setattr(tables, "_is_capturing", lambda like: True)
    first, second = (decay_tables(options(0.1234), 5, like) for _ in range(2))
    assert all(a is not b for a, b in zip(first, second, strict=True))
    monkeypatch.undo()
    outside = decay_tables(options(0.1234), 5, like)
    assert all(a is not b for a, b in zip(outside, second, strict=True))
    assert outside is not first
    for a, b in zip(first, outside, strict=True):
        assert torch.equal(a, b)

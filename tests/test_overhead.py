"""What ContextualRNN adds to a bare network: no memory but the state itself. Times are for benchmarks/overhead.py."""

import json

import pytest
import torch
from tests.allocated import allocated
from torch import nn

from benchmarks import overhead
from contextual_rnn import ConstantState, ContextState, ContextualRNN, FreeState

BATCH, UNITS, CONTEXT, FEATURES = 64, 32, 2, 16
STATE = 2 * BATCH * UNITS * 4  # bytes of h and c


def state(kind, layers=1):
    lstm = nn.LSTM(3, UNITS, num_layers=layers, batch_first=True)
    net = nn.Sequential(nn.Linear(CONTEXT, FEATURES), nn.Tanh())
    made = {
        "constant": lambda: ConstantState(lstm, 0.3),
        "free": lambda: FreeState(lstm, value=0.3),
        "context": lambda: ContextState(lstm, net),
    }
    return lstm, net, made[kind]()


@pytest.mark.parametrize("kind", ["constant", "free", "context"])
def test_a_state_allocates_itself_once(kind):
    """torch wants (1, B, H) contiguous: a tiled variable is copied once, a head's output not at all."""
    _, net, h0 = state(kind)
    context = torch.randn(BATCH, CONTEXT)
    features = allocated(lambda: net(context)) if kind == "context" else 0
    assert allocated(lambda: h0(context, BATCH)) == STATE + features


def test_of_several_layers_a_head_is_copied_once_to_their_layout():
    """The head gives (B, L, H) and torch wants (L, B, H), whoever asks."""
    _, net, h0 = state("context", layers=2)
    context = torch.randn(BATCH, CONTEXT)
    assert allocated(lambda: h0(context)) == 2 * (2 * STATE) + allocated(lambda: net(context))


@pytest.mark.parametrize("kind", ["constant", "free", "context"])
def test_a_model_allocates_what_its_network_and_state_allocate(kind):
    lstm, _, h0 = state(kind)
    model, x, context = ContextualRNN(lstm, h0), torch.randn(BATCH, 5, 3), torch.randn(BATCH, CONTEXT)
    hx = tuple(leaf.detach().requires_grad_() for leaf in h0(context, BATCH))
    assert allocated(lambda: model(x, hx)) == allocated(lambda: lstm(x, hx))
    made = allocated(lambda: h0(context, BATCH))
    assert allocated(lambda: model(x, context=context)) == allocated(lambda: lstm(x, hx)) + made


def test_a_quick_benchmark_writes_its_figures_and_refuses_what_does_not_agree(tmp_path, monkeypatch):
    options = overhead.Benchmark(quick=True, out=tmp_path)
    threads = torch.get_num_threads()
    try:
        overhead.run(options)
    finally:
        torch.set_num_threads(threads)
    report = json.loads((tmp_path / "overhead.json").read_text())
    assert [figure["target"] for figure in report["figures"]] == [2.0, 6.0, 15.0, 15.0]
    assert set(report["training step, microseconds"]) >= {overhead.BARE, overhead.FREE, overhead.CONTEXTUAL}
    forward = ContextualRNN.forward
    monkeypatch.setattr(ContextualRNN, "forward", lambda self, x, hx=None, **kw: forward(self, 1.01 * x, hx, **kw))
    monkeypatch.setattr(overhead, "time_training", lambda *_: pytest.fail("timed what does not agree"))
    with pytest.raises(AssertionError, match="free state: another output"):
        overhead.run(options)

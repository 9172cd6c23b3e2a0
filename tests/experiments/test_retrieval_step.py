"""The native step of the retrieval task against autograd on the model itself."""

import pytest
import torch
from torch.nn import functional

from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.tasks.retrieval_step import RetrievalStep
from contextual_rnn.experiments.training.seeding import generator_for
from contextual_rnn.ops._fast_weights import cpu

pytestmark = pytest.mark.skipif(cpu.instruction_set() is None, reason="the kernel was not built: no C++ compiler")
SMALL = {"train_samples": 80, "validation_samples": 10, "batch_size": 37, "units": 19}
CONFIGURATIONS = [
    {"state": "zero"},
    {"state": "zero", "start": "wenke2019", "timing": "ba2016"},
    {"state": "free", "leaves": "h"},
    {"state": "free", "leaves": "h+a"},
    {"state": "context", "leaves": "h"},
    {"state": "context", "leaves": "h+a", "timing": "ba2016"},
    {"state": "context", "leaves": "h+a", "start": "wenke2019"},
    {"state": "context", "leaves": "h+a", "shuffled_context": True},
    {"state": "normal", "leaves": "h+a"},
    {"state": "context", "leaves": "h+a", "inner_steps": 2, "layer_norm": False, "rate": 0.01},
]


def identity(options):
    return " ".join(str(value) for value in options.values())


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=identity)
def test_gradients_and_training_are_those_of_autograd(options):
    """Over two epochs and a smaller last batch each; gradients are written over what was there before."""
    config = RetrievalConfig(**SMALL, **options)
    ours, theirs = Training(config), Training(config)
    theirs.task.model = model = theirs.task.model
    for k in range(2 * ours.batches.per_epoch):
        ours.optimizer._vector.grad.fill_(torch.nan)
        loss = ours.step(k)
        sequences, targets = theirs.batches[k]
        expected = functional.cross_entropy(model(sequences, generator_for("states", config.seed, k)), targets)
        theirs.optimizer.differentiate(expected)
        # Sums over 37 sequences and 11 steps in another order.
        torch.testing.assert_close(loss, expected.item(), rtol=1e-5, atol=1e-5)
        for (name, mine), other in zip(ours.task.model.named_parameters(), model.parameters(), strict=True):
            found, wanted = ours.optimizer.grad(mine), theirs.optimizer.grad(other)
            assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max(), name
            other.data.copy_(mine.data)  # the same weights for the next step
    assert isinstance(ours.task._step, RetrievalStep)


@pytest.mark.parametrize(
    "options", [{"network": "lstm"}, {"context_input": True, "state": "context"}, {"pairs": 9, "units": 10}]
)
def test_autograd_serves_elsewhere(options):
    """Another network, a context at every step, and sequences longer than the one pass takes."""
    training = Training(RetrievalConfig(**{**SMALL, **options}))
    assert torch.tensor(training.step(0)).isfinite()
    assert training.task._step is None


def test_a_named_backend_is_used(monkeypatch):
    monkeypatch.setenv("CONTEXTUAL_RNN_BACKEND", "reference")
    training = Training(RetrievalConfig(**SMALL))
    training.step(0)
    assert training.task._step is None


def test_a_loss_that_is_not_finite_changes_nothing():
    training = Training(RetrievalConfig(**SMALL, state="context", leaves="h+a"))
    training.step(0)
    training.task.model.hidden.bias.data[0] = torch.inf
    before = training.optimizer._vector.detach().clone()
    assert not torch.tensor(training.step(1)).isfinite()
    assert torch.equal(training.optimizer._vector, before)

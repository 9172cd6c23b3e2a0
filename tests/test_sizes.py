"""Sizes that are integers of other kinds than int: numpy's, and tensors of no axes."""

import numpy as np
import pytest
import torch
from torch import nn

from contextual_rnn import (
    AdditiveAttention,
    ConstantState,
    ContextDropout,
    ContextNet,
    ContextState,
    ContextualRNN,
    Continuous,
    FastWeightsRNN,
    FreeState,
    Leaf,
    NormalState,
    StateSpec,
    fast_weights_spec,
    generate,
    state_spec,
    truncated,
)
from contextual_rnn.diagnostics import diagnose
from contextual_rnn.ops import fast_weights


class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(2, 3)

    def forward(self, x, h):
        return self.gru(x, h)


KINDS = {"int64": np.int64, "uint8": np.uint8, "0-d array": np.array, "tensor": torch.tensor}
GRU = nn.GRU(3, 4, batch_first=True)
X, CONTEXT = torch.randn(2, 6, 3), torch.randn(2, 2)


def dropped(number):
    return ContextDropout(FreeState(GRU), 0.5)(CONTEXT, number(2))


CALLS = {
    "batch_size": lambda number: [
        state(CONTEXT, number(2)) for state in (ConstantState(GRU), FreeState(GRU), ContextState(GRU, nn.Linear(2, 3)))
    ],
    "batch_size of dropout": dropped,
    "batch_size of densities": lambda number: NormalState(GRU, FreeState(GRU)).kl(batch_size=number(2)).shape,
    "num_samples": lambda number: FreeState(GRU).sample(batch_size=number(2), num_samples=number(3)),
    "features": lambda number: ContextState(GRU, nn.Sequential(nn.Linear(2, 3), nn.GLU()), features=number(2)),
    "shape": lambda number: FreeState(StateSpec(Leaf("h", (number(4), number(2)), batch_dim=number(1))))(batch_size=2),
    "rank": lambda number: fast_weights_spec(FastWeightsRNN(3, 4), "low_rank", rank=number(2)),
    "FastWeightsRNN": lambda number: FastWeightsRNN(number(3), number(4), inner_steps=number(2), batch_first=True)(X),
    "fast_weights": lambda number: fast_weights(
        torch.randn(2, 6, 4), torch.eye(4), torch.randn(2, 4), inner_steps=number(2)
    ),
    "ContextNet": lambda number: ContextNet({"q": Continuous(0.0, 1.0)}, number(4), embedding_dim=number(2)),
    "AdditiveAttention": lambda number: AdditiveAttention(number(3), number(3), number(4))(X, X),
    "generate": lambda number: generate(
        ContextualRNN(GRU, FreeState(GRU)),
        lambda output, value: value,
        X[:, 0],
        num_steps=number(3),
        num_samples=number(2),
    ),
    "steps": lambda number: list(truncated(ContextualRNN(GRU, FreeState(GRU)), X, number(2))),
    "burn_in": lambda number: ContextualRNN(GRU, FreeState(GRU))(X, burn_in=number(2)),
    "diagnose": lambda number: diagnose(
        (model := ContextualRNN(GRU, ContextState(GRU, nn.Linear(2, 3)))),
        lambda: model(X, context=CONTEXT)[0].square().mean(-1),
        permutations=number(3),
        influence_steps=number(2),
        seed=number(1),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_integers_of_any_kind_are_sizes(call, kind):
    CALLS[call](KINDS[kind])


def test_what_is_kept_of_them_are_ints():
    leaf = Leaf("h", (np.int64(4),), batch_dim=np.int64(1))
    network = FastWeightsRNN(np.int64(3), np.int64(4), inner_steps=np.int64(2))
    kept = [*leaf.shape, leaf.batch_dim, network.input_size, network.hidden_size, network.inner_steps]
    assert [type(size) for size in kept] == [int] * 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_step", [False, True])
def test_axes_of_a_spec_are_such_integers_too(kind, own_step):
    number = KINDS[kind]
    step = (lambda network, x, h: (network(x[None], h)[0][0], network(x[None], h)[1])) if own_step else None
    leaf = Leaf("h", (1, 3), batch_dim=1)
    x, lengths, h0 = torch.randn(4, 3, 2), torch.tensor([4, 2, 0]), torch.randn(1, 3, 3)
    results = []
    for integer in (int, number):
        axes = {"input_batch_dim": integer(1), "input_ndim": integer(3)} | (
            {} if own_step else {"time_dim": integer(0)}
        )
        spec = StateSpec(leaf, step=step, **axes)
        assert [type(axis) for axis in (spec.input_batch_dim, spec.input_ndim, spec.known_time_dim)] == [int] * 3
        state_spec.register(TimeMajor)(lambda network, spec=spec: spec)
        results.append(ContextualRNN(network := TimeMajor(), FreeState(network))(x, h0, lengths=lengths))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [True, np.True_, torch.tensor(True), np.array(True), 2.0, np.float64(2), torch.tensor(2.0), torch.tensor([2]), "2"],
    ids=repr,
)
def test_what_is_no_integer_is_refused(wrong):
    with pytest.raises(TypeError, match=r"^num_samples: expected a positive int, got"):
        FreeState(GRU).sample(num_samples=wrong)


@pytest.mark.parametrize("wrong", [0, np.int64(-1), torch.tensor(0)], ids=repr)
def test_a_size_that_is_too_small_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^num_samples: expected a positive int, got"):
        FreeState(GRU).sample(num_samples=wrong)

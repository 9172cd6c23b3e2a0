"""Weighted sums of states: interpolated, added, folded into one."""

import pytest
import torch
from tests.networks import SPECS, make, tensors_of
from torch import nn

from contextual_rnn import ConstantState, ContextState, ContextualRNN, FreeState, NormalState, SumState

LSTM = nn.LSTM(3, 5)


def states(spec):
    torch.manual_seed(0)
    made = [FreeState(spec, noise=0.2), ContextState(spec, nn.Linear(2, 3)), NormalState(spec, nn.Linear(2, 3))]
    with torch.no_grad():
        for state in made:
            for parameter in state.parameters():
                parameter.add_(torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("name", SPECS)
def test_the_mean_is_the_weighted_sum_of_the_means(name):
    _, spec = make(name)
    parts, weights = states(spec), [0.5, -1.5, 2.0]
    total, context = SumState(parts, weights).eval(), torch.randn(4, 2)
    calls = [(context, None, None), (context[0], 4, None), (context[0], None, None), (context[0], None, False)]
    for given, batch_size, batched in calls:
        arguments = {"context": given, "batch_size": batch_size, "batched": batched}
        found = tensors_of(total(**arguments))
        if given.ndim == 1 and batch_size is None:  # a free state alone would take it for a batch of two numbers
            arguments["batched"] = False
        wanted = [tensors_of(part(**arguments)) for part in parts]
        for leaf, terms in zip(found, zip(*wanted, strict=True), strict=True):
            expected = sum(weight * term for weight, term in zip(weights, terms, strict=True))
            torch.testing.assert_close(leaf, expected)
    total.weights = [1.0, 0.0, 0.0]
    assert all(map(torch.equal, tensors_of(total(context)), tensors_of(parts[0](context))))


def test_draws_have_the_scale_of_independent_terms_and_every_parameter_a_gradient():
    parts = states(LSTM)
    total, context = SumState(parts, [0.5, 1.0, -2.0]), torch.randn(3, 2)
    draws = total.sample(context, num_samples=20_000, generator=torch.Generator().manual_seed(0))
    for name, draw in zip("hc", draws, strict=True):
        sigma = parts[2].moments(context, None, None)[name].scale
        expected = (0.1**2 + (2 * sigma) ** 2).sqrt().expand(1, 5)
        # 20,000 draws: the standard deviation is known to 0.5 %, and five times that is never seen.
        torch.testing.assert_close(draw.reshape(3, 20_000, 5).std(1), expected.expand(3, 5), rtol=0.025, atol=0)
    leaves = total(context)
    sum((leaf * torch.randn_like(leaf)).sum() for leaf in leaves).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in total.parameters())


def test_free_states_fold_into_one():
    one, other = (FreeState(LSTM, value=tuple(torch.randn(2, 1, 5))) for _ in range(2))
    between = SumState([one, other], [0.3, 0.7])
    folded = FreeState(LSTM, value=between.eval()())
    x = torch.randn(4, 2, 3)
    for found, wanted in zip(ContextualRNN(LSTM, folded)(x), ContextualRNN(LSTM, between)(x), strict=True):
        assert all(map(torch.equal, tensors_of(found), tensors_of(wanted)))
    assert not between.reads_context
    assert SumState([one, ContextState(LSTM, nn.Linear(2, 3))], [1, 1]).reads_context


BAD = [
    (lambda: SumState([], []), ValueError, "states: expected at least one, got none"),
    (lambda: SumState([LSTM], [1.0]), TypeError, "states: expected InitialStates, got LSTM"),
    (lambda: SumState([FreeState(LSTM)], [1.0, 2.0]), ValueError, "weights: expected 1, one for each state, got 2"),
    (lambda: SumState([FreeState(LSTM)], ["1"]), TypeError, "weights: expected a finite number, got '1'"),
    (lambda: SumState([FreeState(LSTM)], [float("nan")]), ValueError, "weights: expected a finite number, got nan"),
    (lambda: SumState([FreeState(LSTM), ConstantState(nn.GRU(3, 5))], [1, 1]), ValueError,
     r"states: expected all for \(h of shape .*, c of .*\), got h of shape"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for _, _, words in BAD])
def test_bad_arguments_are_refused(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()

"""Under the null hypothesis the p-value of a diagnosis is uniform; with an effect it is small."""

import torch
from scipy import stats
from torch import nn

from contextual_rnn import state_spec
from contextual_rnn.diagnostics import diagnose_state

BATCH, STEPS, UNITS, PERMUTATIONS = 8, 3, 4, 19
EXPERIMENTS = 400


def p_value(experiment: int, effect: float) -> float:
    """Of an experiment whose target is noise (effect 0), what the network makes of h(0) (1), or between."""
    torch.manual_seed(experiment)
    network = nn.RNN(1, UNITS, batch_first=True)
    # States of which some are bad for every sequence, which a test that pairs sequences alone would get wrong.
    h0 = torch.randn(1, BATCH, UNITS) * torch.rand(BATCH, 1) * 3
    x = torch.randn(BATCH, STEPS, 1)
    target = (1 - effect) * torch.randn(BATCH, STEPS) + effect * network(x, h0)[0].sum(2).detach()
    losses = lambda state: (network(x, state)[0].sum(2) - target).square()  # noqa: E731
    options = {"permutations": PERMUTATIONS, "seed": experiment}
    found = diagnose_state(losses, h0, state_spec(network), **options).p_value
    assert found is not None
    return found


def test_p_values_are_uniform_where_the_state_says_nothing():
    """1/20 .. 20/20, each equally often; the seeds are fixed, so the test is no lottery."""
    found = [round(p_value(experiment, 0.0) * 20) for experiment in range(EXPERIMENTS)]
    counts = [found.count(k) for k in range(1, 21)]
    assert sum(counts) == EXPERIMENTS
    assert stats.chisquare(counts).pvalue > 0.01
    # The share of "significant" results at 5, 10 and 20 % is no more than a binomial one of 99.9 %.
    for level in (1, 2, 4):
        assert sum(counts[:level]) <= stats.binom.ppf(0.999, EXPERIMENTS, level / 20)
        assert sum(counts[:level]) >= stats.binom.ppf(0.001, EXPERIMENTS, level / 20)


def test_p_values_are_small_where_it_does():
    found = [p_value(experiment, 0.7) for experiment in range(40)]
    assert sum(p <= 0.1 for p in found) > 35

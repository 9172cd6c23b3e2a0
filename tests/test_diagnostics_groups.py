"""With groups the states of whole groups are permuted, and the test holds its level where sequences are dependent."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

from contextual_rnn import ContextState, ContextualRNN, state_spec
from contextual_rnn.diagnostics import diagnose, diagnose_state
from contextual_rnn.diagnostics.groups import orders

EXPERIMENTS, PERMUTATIONS = 500, 19


def share_significant(sizes: list[int], *, grouped: bool, constant: bool) -> float:
    """How often p <= 0.05 where states and targets depend on the group, and not on each other."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    significant = 0
    for experiment in range(EXPERIMENTS):
        generator = torch.Generator().manual_seed(experiment)
        state, target = torch.randn(2, len(sizes), generator=generator)[:, group]
        if not constant:
            state = state + 0.5 * torch.randn(len(group), generator=generator)
            target = target + 0.5 * torch.randn(len(group), generator=generator)
        _, permuted = orders(group if grouped else None, len(group), PERMUTATIONS, experiment)
        losses = (state[torch.stack(list(permuted))] - target).square().mean(1)
        significant += 1 + int((losses <= (state - target).square().mean()).sum()) <= 1
    return significant / EXPERIMENTS


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("sizes", [[6] * 10, [2, 12] * 5, list(range(1, 9))])
def test_five_per_cent_of_null_runs_are_significant(sizes, constant):
    share = share_significant(sizes, grouped=True, constant=constant)
    low, high = stats.binom.ppf([0.001, 0.999], EXPERIMENTS, 0.05) / EXPERIMENTS
    assert low <= share <= high


def test_without_groups_far_more_are():
    assert share_significant([20] * 8, grouped=False, constant=False) > 0.2


def test_each_group_gets_the_states_of_one_group_in_order():
    groups = ["a", "b", "a", "c", "b", "a", "c", "c", "c"]  # a: 0 2 5, b: 1 4, c: 3 6 7 8
    members = {name: [place for place, group in enumerate(groups) if group == name] for name in "abc"}
    number, permuted = orders(groups, len(groups), 50, 0)
    assert number == 3
    given = set()
    for order in permuted:
        sources = []
        for name in "abc":
            received = order[members[name]].tolist()
            source = groups[received[0]]
            sources.append(source)
            size, own = len(members[source]), len(members[name])
            assert received == [members[source][place * size // own] for place in range(own)]
        assert sorted(sources) == ["a", "b", "c"]
        given.add(tuple(sources))
    assert len(given) == 6


def test_without_groups_the_orders_are_those_of_single_sequences():
    generator = torch.Generator().manual_seed(3)
    expected = [torch.randperm(7, generator=generator) for _ in range(4)]
    number, permuted = orders(None, 7, 4, 3)
    assert number == 7
    assert all(torch.equal(order, one) for order, one in zip(permuted, expected, strict=True))


@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 2, 2], ["x", "x", "y", "y", "z", "z"], torch.arange(6) // 2])
def test_a_diagnosis_says_how_many_groups_it_permuted(groups):
    torch.manual_seed(0)
    gru = nn.GRU(1, 4, batch_first=True)
    model = ContextualRNN(gru, ContextState(gru, nn.Linear(2, 3)))
    x, context = torch.randn(6, 3, 1), torch.randn(3, 2).repeat_interleave(2, 0)
    diagnosis = diagnose(model, lambda: model(x, context=context)[0].sum(2), groups=groups, permutations=9)
    assert diagnosis.groups == diagnosis.as_dict()["groups"] == 3
    assert any(
        "another group's state does as well (9 permutations of 3 groups)" in line for line in diagnosis.findings()
    )
    plain = diagnose(model, lambda: model(x, context=context)[0].sum(2), permutations=9)
    assert plain.groups is None
    assert "another sequence's state does as well (9 permutations)" in plain.table()


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([0, 1], ValueError, "groups: expected one for each of 3 sequences, got 2"),
        ([1, 1, 1], ValueError, "groups: expected at least two different ones, got 1"),
        ("abc", TypeError, "groups: expected a group for each sequence"),
        (3, TypeError, "groups: expected a group for each sequence"),
        ([[1], [2], [3]], TypeError, "groups: expected numbers or names"),
    ],
)
def test_bad_groups_are_refused(groups, error, message):
    gru = nn.GRU(1, 4, batch_first=True)
    h0 = torch.randn(1, 3, 4)
    with pytest.raises(error, match=message):
        diagnose_state(lambda state: gru(torch.zeros(3, 2, 1), state)[0].sum(2), h0, state_spec(gru), groups=groups)

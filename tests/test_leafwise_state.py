"""LeafwiseState hands every leaf to the state given for it."""

import pytest
import torch
from torch import nn

from contextual_rnn import ContextState, FreeState, LeafwiseState, state_spec

B = 4
LSTM = nn.LSTM(3, 5)
SPEC = state_spec(LSTM)


def test_each_leaf_has_the_state_given_for_it():
    h = ContextState(SPEC["h"], nn.Linear(2, 6))
    c = FreeState(SPEC["c"], noise=0.5, value=torch.randn(1, 5))
    # Both orders: the state that reads no context must not need to come last.
    for states in ({"h": h, "c": c}, {"c": c, "h": h}):
        state = LeafwiseState(LSTM, **states)
        context = torch.randn(B, 2)
        assert not torch.equal(state(context)[1], state.eval()(context)[1])
        assert torch.equal(state(context)[0], h(context))
        assert torch.equal(state(context)[1], c(batch_size=B))
        assert [tensor.shape for tensor in state(context[0])] == [(1, 5), (1, 5)]
        assert [tensor.shape for tensor in state(context[0], 2)] == [(1, 2, 5), (1, 2, 5)]
        state.train()


class Last(nn.Module):
    """Features of the last step of a sequence (T, B, 2) or (T, 2)."""

    out_features = 2

    def forward(self, sequence):
        return sequence[-1]


def test_the_features_say_the_batch_size_to_states_without_context():
    state = LeafwiseState(LSTM, c=FreeState(SPEC["c"], value=0.5), h=ContextState(SPEC["h"], Last()))
    assert [tensor.shape for tensor in state(torch.randn(7, B, 2))] == [(1, B, 5), (1, B, 5)]
    assert [tensor.shape for tensor in state(torch.randn(7, 2))] == [(1, 5), (1, 5)]


BAD_STATES = [
    ({"h": FreeState(SPEC["h"])}, ValueError, "states: expected one for each of h, c, got h"),
    ({}, ValueError, "states: expected one for each of h, c, got none"),
    ({name: FreeState(SPEC["h"]) for name in "hcz"}, ValueError, "states: expected one for each of h, c, got h, c, z"),
    ({"h": FreeState(LSTM), "c": FreeState(LSTM)}, ValueError, "h: expected a state made for"),
    ({"h": FreeState(SPEC["c"]), "c": FreeState(SPEC["h"])}, ValueError, "h: expected a state made for"),
    ({"h": FreeState(SPEC["h"]), "c": FreeState(nn.GRU(3, 5))}, ValueError, "c: expected a state made for"),
    ({"h": FreeState(SPEC["h"]), "c": FreeState(nn.LSTM(3, 6))}, ValueError, "c: expected a state made for"),
    ({"h": FreeState(state_spec(nn.LSTM(3, 5, 2))["h"]), "c": FreeState(SPEC["c"])}, ValueError, "h: expected a state"),
    ({"h": FreeState(SPEC["h"]), "c": nn.Linear(2, 5)}, TypeError, "c: expected an InitialState, got Linear"),
    ({"h": FreeState(SPEC["h"]), "c": None}, TypeError, "c: expected an InitialState, got NoneType"),
]


@pytest.mark.parametrize(("states", "error", "words"), BAD_STATES, ids=range(len(BAD_STATES)))
def test_other_states_are_refused(states, error, words):
    with pytest.raises(error, match=f"^{words}"):
        LeafwiseState(LSTM, **states)

"""A network that starts from something else than zeros: what states and diagnostics call its start."""

import pytest
import torch
from torch import nn

from contextual_rnn import (
    ConstantState,
    ContextDropout,
    ContextState,
    ContextualRNN,
    FreeState,
    Leaf,
    NormalState,
    StateSpec,
    check_spec,
    state_spec,
)
from contextual_rnn.diagnostics import diagnose


class Normalised(nn.Module):
    """h(t) = tanh(W x(t) + h(t-1) / m(t-1)), m(t) = 0.9 m(t-1) + |h(t)|: from m = 0 it divides by zero."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(3, 4)

    def forward(self, x, state):
        h, m, count = state["h"], state["m"], state["count"]
        outputs = []
        for inputs in x.unbind(1):
            h = torch.tanh(self.w(inputs) + h / m)
            m = 0.9 * m + h.abs()
            outputs.append(h)
        return torch.stack(outputs, 1), {"h": h, "m": m, "count": count + x.shape[1]}


@state_spec.register
def _(network: Normalised) -> StateSpec:
    m, count = Leaf("m", (4,), start=1.5), Leaf("count", (1,), dtype=torch.int64, start=7)
    return StateSpec({"h": Leaf("h", (4,)), "m": m, "count": count}, time_dim=1)


X, CONTEXT = torch.randn(3, 5, 3), torch.randn(3, 2)


def assert_start(state):
    assert torch.equal(state["h"], torch.zeros(3, 4))
    assert torch.equal(state["m"], torch.full((3, 4), 1.5))
    assert state["count"].tolist() == [[7]] * 3


STATES = {
    "constant": ConstantState,
    "free": FreeState,
    "context": lambda network: ContextState(network, nn.Linear(2, 6), zero_init=True),
    "normal": lambda network: NormalState(network, nn.Linear(2, 6), zero_init=True).eval(),
    "null": lambda network: ContextDropout(ContextState(network, nn.Linear(2, 6)), 1.0),
}


@pytest.mark.parametrize("name", STATES)
def test_states_start_there(name):
    network = Normalised()
    state = STATES[name](network)
    assert_start(state(CONTEXT, 3))
    state.to_empty(device="cpu")
    for module in state.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert_start(state(CONTEXT, 3))
    assert ContextualRNN(network, state)(X, context=CONTEXT)[0].isfinite().all()


def test_a_number_and_a_state_are_what_they_are():
    network = Normalised()
    assert torch.equal(ConstantState(network, 0.0)(batch_size=3)["m"], torch.zeros(3, 4))
    assert torch.equal(FreeState(network, value=2.0)(batch_size=3)["m"], torch.full((3, 4), 2.0))
    given = {"h": torch.ones(4), "m": torch.ones(4), "count": torch.tensor([1])}
    assert torch.equal(FreeState(network, value=given)(batch_size=3)["m"], torch.ones(3, 4))


def test_the_zeroed_state_of_diagnose_is_the_start():
    network = Normalised()
    model = ContextualRNN(network, ContextState(network, nn.Linear(2, 6)))
    found = diagnose(model, lambda: model(X, context=CONTEXT)[0].square().mean(2), permutations=2)
    wanted = ContextualRNN(network, ConstantState(network))(X)[0].square().mean((0, 2))
    torch.testing.assert_close(found.losses["zeroed"].float(), wanted)
    assert not found.not_finite


def test_a_start_that_is_not_said_is_noticed():
    class FromZeros(Normalised):
        pass

    @state_spec.register
    def _(network: FromZeros) -> StateSpec:
        tree = {"h": Leaf("h", (4,)), "m": Leaf("m", (4,)), "count": Leaf("count", (1,), dtype=torch.int64)}
        return StateSpec(tree, time_dim=1)

    with pytest.raises(ValueError, match="expected a FromZeros that gives finite numbers from a state of zeros"):
        check_spec(FromZeros(), X)


REFUSED = [
    (lambda: Leaf("m", (3,), start="1"), TypeError, "start: expected a finite number, got '1'"),
    (lambda: Leaf("m", (3,), start=float("inf")), ValueError, "start: expected a finite number, got inf"),
    (lambda: Leaf("m", (3,), dtype=torch.int64, start=0.5), ValueError, "start: expected a number that torch.int64"),
    (lambda: Leaf("m", (3,), dtype=torch.complex64, start=1), ValueError, "start: expected 0 for a leaf of torch.comp"),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()

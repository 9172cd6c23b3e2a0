"""Bad arguments of the diagnostics are refused by name."""

import pytest
import torch
from torch import nn

from contextual_rnn import ContextState, ContextualRNN, FastWeightsRNN, FreeState
from contextual_rnn.diagnostics import Diagnosis, diagnose, diagnose_state
from contextual_rnn.diagnostics.intercept import watch

BATCH, STEPS = 3, 4
X, CONTEXT = torch.randn(BATCH, STEPS, 1), torch.randn(BATCH, 2)


def model() -> ContextualRNN:
    gru = nn.GRU(1, 5, batch_first=True)
    return ContextualRNN(gru, ContextState(gru, nn.Linear(2, 4)))


def losses_of(rnn, **options):
    return lambda: rnn(X, context=CONTEXT, **options)[0].mean(2)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"permutations": -1}, ValueError, "permutations: expected an int of at least 0, got -1"),
        ({"permutations": 9.5}, TypeError, "permutations"),
        ({"influence_steps": 1}, ValueError, "influence_steps: expected an int of at least 2"),
        ({"seed": "a"}, TypeError, "seed"),
        ({"network": "gru"}, TypeError, "network: expected a module or None, got str"),
        ({"network": nn.Linear(1, 1)}, TypeError, "network: expected one with a registered state spec"),
        ({"lengths": torch.tensor([1, 2, 5])}, ValueError, "lengths: expected 0 to 4"),
        ({"lengths": torch.tensor([0, 0, 0])}, ValueError, "lengths: expected at least one real step, got none"),
        ({"lengths": torch.tensor([1, 2])}, ValueError, "lengths: expected shape"),
    ],
)
def test_options(options, error, said):
    rnn = model()
    with pytest.raises(error, match=said):
        diagnose(rnn, losses_of(rnn), **options)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda loss: loss.mean(), ValueError, r"losses: expected \(3, steps\) or \(3,\), got \(\)"),
        (lambda loss: loss.T, ValueError, r"got \(4, 3\)"),
        (lambda loss: loss[:, :, None], ValueError, r"got \(3, 4, 1\)"),
        (lambda loss: loss[:, :0], ValueError, r"got \(3, 0\)"),
        (
            lambda loss: loss.to("meta"),
            ValueError,
            "losses: expected a tensor whose values can be read, got one on meta",
        ),
        (lambda loss: loss.detach().to_sparse(), ValueError, "losses: expected a strided tensor"),
        (lambda loss: loss + 0j, TypeError, "losses: expected real numbers, got torch.complex64"),
        (lambda loss: loss.tolist(), TypeError, "losses: expected a function that returns a tensor, got list"),
    ],
)
def test_losses(change, error, said):
    rnn = model()
    with pytest.raises(error, match=said):
        diagnose(rnn, lambda: change(losses_of(rnn)()))


def test_a_function_and_a_module_are_needed():
    with pytest.raises(TypeError, match="losses: expected a function, got Tensor"):
        diagnose(model(), torch.zeros(3, 4))
    with pytest.raises(TypeError, match="model: expected a module, got function"):
        diagnose(lambda: None, lambda: None)


def test_the_function_takes_a_state_or_nothing():
    gru, state = nn.GRU(1, 5, batch_first=True), torch.zeros(1, BATCH, 5)
    with pytest.raises(TypeError, match=r"losses: expected a function without arguments, got .*: missing a required"):
        diagnose(model(), lambda state: state)
    with pytest.raises(TypeError, match=r"losses: expected a function of a state, got .*: too many positional"):
        diagnose_state(lambda: state, state, gru)
    with pytest.raises(TypeError, match="losses: expected a function, got the class MSELoss"):
        diagnose(model(), nn.MSELoss)


def test_exactly_one_initial_state_is_called_once():
    rnn, other = model(), model()
    with pytest.raises(ValueError, match="model: expected one initial state in it, got 0"):
        diagnose(nn.GRU(1, 5), losses_of(rnn))
    with pytest.raises(ValueError, match="model: expected one initial state in it, got 2"):
        diagnose(nn.ModuleList([rnn, other]), losses_of(rnn))
    with pytest.raises(ValueError, match="losses: expected one call of the initial state, got 0"):
        diagnose(rnn, losses_of(rnn, hx=torch.zeros(1, BATCH, 5)))
    with pytest.raises(ValueError, match="losses: expected one call of the initial state, got 2"):
        diagnose(rnn, lambda: losses_of(rnn)() + losses_of(rnn)())
    reset = torch.zeros(BATCH, 4, dtype=torch.bool).index_fill_(1, torch.tensor([2]), True)
    words = f"losses: expected one initial state for each of {BATCH} sequences, got {2 * BATCH}; leave out reset="
    with pytest.raises(ValueError, match=words):
        diagnose(rnn, losses_of(rnn, reset=reset))
    assert not rnn.initial_state._forward_hooks, "hooks go in spite of an error"
    assert rnn.training, "and modes come back"


def test_gradients_must_be_possible():
    rnn = model()
    with pytest.raises(ValueError, match="expected h\\(t\\) with a gradient"):
        diagnose(rnn, torch.no_grad()(losses_of(rnn)))


def test_a_batch_of_two_is_needed():
    gru = nn.GRU(1, 5, batch_first=True)
    rnn = ContextualRNN(gru, FreeState(gru))
    with pytest.raises(ValueError, match="two sequences or more, got 1"):
        diagnose(rnn, lambda: rnn(X[:1])[0].mean(2))
    with pytest.raises(ValueError, match="expected a batch of states, got that of one example"):
        diagnose(rnn, lambda: rnn(X[0])[0].mean(1))


def test_the_state_must_be_as_the_network_takes_it():
    gru, fast = nn.GRU(1, 5, batch_first=True), FastWeightsRNN(1, 5, batch_first=True)
    with pytest.raises(ValueError, match="state: expected leaf 'h' of shape"):
        diagnose_state(lambda state: gru(X, state)[0].mean(2), torch.zeros(1, BATCH, 4), gru)
    state = (torch.zeros(BATCH, 5), torch.zeros(BATCH, 5, 5))
    with pytest.raises(ValueError, match=r"state: expected \(h of shape .*, None\), got"):
        diagnose_state(lambda state: fast(X, state)[0].mean(2), state, fast)


def test_states_that_cannot_be_averaged_are_refused():
    gru, state = nn.GRU(1, 5, batch_first=True), torch.zeros(1, BATCH, 5)
    for other, error, words in (
        (state.to(torch.float8_e5m2), TypeError, "expected a floating-point tensor of at least 16 bits"),
        (state.to_sparse(), ValueError, "expected a strided tensor"),
        (state.to("meta"), ValueError, "expected a tensor whose values can be read"),
        (state.bfloat16(), ValueError, "expected 'h' of torch.float32 on cpu, as the network, got torch.bfloat16"),
    ):
        with pytest.raises(error, match=f"^state: {words}"):
            diagnose_state(lambda state: state.mean((0, 2)), other, gru, permutations=2)


def test_a_diagnosis_without_permutations_has_findings():
    losses = {name: torch.ones(2, dtype=torch.float64) for name in ("true", "zeroed", "mean")}
    diagnosis = Diagnosis(losses, dict.fromkeys(losses, 1.0), 9, None, None, {})
    assert "no p-value: every sequence has the same initial state" in diagnosis.table()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": torch.tensor([5, 0, 2])}, "losses: expected h.t. of 3 sequences, got 2; sequences without a step"),
        ({"reset": torch.eye(3, 5).bool()}, "losses: expected one initial state for each of 3 sequences, got 5; leave"),
        ({"burn_in": 2}, "losses: expected h.t. with a gradient at every step, got steps without; leave out burn_in"),
    ],
)
def test_runs_of_which_no_influence_is_defined(options, message):
    gru = nn.GRU(1, 4, batch_first=True)
    model = ContextualRNN(gru, ContextState(gru, nn.Linear(2, 4)))
    x, context = torch.randn(3, 5, 1), torch.randn(3, 2)
    with pytest.raises(ValueError, match=message):
        diagnose(model, lambda: model(x, context=context, **options)[0].square().sum(-1), permutations=2)


def test_padding_on_the_left_and_resets_of_no_row_are_diagnosed():
    gru = nn.GRU(1, 4, batch_first=True)
    model = ContextualRNN(gru, ContextState(gru, nn.Linear(2, 4)))
    x, context, last = torch.randn(3, 5, 1), torch.randn(3, 2), torch.arange(5) >= torch.tensor([[0], [3], [1]])
    for options in ({"mask": last}, {"mask": last, "reset": torch.zeros(3, 5, dtype=torch.bool)}):
        diagnose(model, lambda options=options: model(x, context=context, **options)[0].square().sum(-1))


def test_outputs_of_one_call_are_not_copied():
    gru, outputs = nn.GRU(1, 5, batch_first=True), []

    def losses() -> torch.Tensor:
        outputs.append(gru(X)[0])
        return outputs[-1].mean(2)

    hidden = watch(losses, gru)[1]
    assert hidden is not None
    assert hidden.data_ptr() == outputs[0].data_ptr()

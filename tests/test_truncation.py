"""Pieces and burn-in are every sequence run alone, the state carried on detached, or begun anew where it is reset."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.networks import tensors_of
from tests.sequences_alone import (
    ONE_WAY,
    STEPS,
    Batch,
    alone,
    assert_equal,
    axes_of,
    batch_first,
    build,
    in_layout,
    outcome,
    patterns,
    rows_of,
)
from torch import nn
from torch.nn import functional

from contextual_rnn import ContextState, ContextualRNN, FastWeightsRNN, FreeState, LowRank, detach, truncated

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ONE_WAY)
@given(pattern=patterns(), size=st.integers(1, STEPS), explicit=st.booleans(), contexts=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=5)
def test_pieces_are_every_sequence_alone_in_pieces(case, dtype, pattern, size, explicit, contexts):
    model = build(case, dtype)
    batch = Batch.of(model, *pattern, explicit=explicit, reset_context=contexts)
    pieces = list(truncated(model, batch.input(model), size, batch.state(model), **batch.arguments(model)))
    outputs, state = [batch_first(model, output) for _, output, _ in pieces], pieces[-1][2]
    places = [step for place, _, _ in pieces for step in range(place.start, place.stop)]
    longest = max(1, int((batch.begin + batch.lengths).max()))  # one piece at least: it has the state
    assert places == list(range(min(STEPS, -(-longest // size) * size))), "pieces end with the longest row"
    whole = functional.pad(torch.cat(outputs, 1), (0, 0, 0, STEPS - len(places)))
    found = outcome(model, batch, whole, rows_of(model, state))
    assert_equal(found, outcome(model, batch, *alone(model, batch, tuple(range(size, longest, size)))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ONE_WAY)
@given(pattern=patterns(), steps=st.integers(1, STEPS - 1), explicit=st.booleans(), contexts=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=5)
def test_burn_in_is_a_silent_first_piece(case, dtype, pattern, steps, explicit, contexts):
    model = build(case, dtype)
    lengths, reset = pattern
    lengths[0] = STEPS  # there must be a step left to run
    batch = Batch.of(model, lengths, reset, explicit=explicit, reset_context=contexts)
    output, state = model(batch.input(model), batch.state(model), burn_in=steps, **batch.arguments(model))
    output = batch_first(model, output)
    assert output.shape[1] == STEPS - steps
    wanted, finals = alone(model, batch, (steps,), silent=steps)
    found = outcome(model, batch, output, rows_of(model, state))
    assert_equal(found, outcome(model, batch, wanted[:, steps:], finals))


def test_learning_between_pieces_starts_resets_from_the_new_parameters():
    gru = nn.GRU(3, 5, batch_first=True)
    model = ContextualRNN(gru, FreeState(gru))
    x, reset = torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    reset[0, 2] = True
    for place, output, _ in truncated(model, x, 2, reset=reset):
        if place.start == 0:
            first = model.initial_state.values["h"].detach().clone()
            output.sum().backward()
            with torch.no_grad():
                model.initial_state.values["h"] += 1
        else:
            wanted = gru(x[:1, 2:], (first + 1).expand(1, 1, 5).contiguous())[0]
            torch.testing.assert_close(output[:1], wanted)


@pytest.mark.parametrize("name", ["lengths", "mask", "reset"])
def test_what_cuts_a_batch_may_be_overwritten_once_it_was_given(name):
    """As by a thread that gathers the next batch: after the check, other numbers would be read beyond the batch."""
    model = build("gru", torch.float64).eval()
    x, context = torch.randn(5, 6, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    lengths = torch.tensor([6, 4, 1, 5, 3])
    given = {"lengths": lengths, "mask": torch.arange(6) < lengths[:, None], "reset": torch.rand(5, 6) < 0.4}[name]
    x = x.movedim((0, 1), axes_of(model))
    given = in_layout(model, given) if given.ndim == 2 else given
    expected = [each for _, *each in truncated(model, x, 2, context=context, **{name: given})]
    pieces = []
    for _, *each in truncated(model, x, 2, context=context, **{name: given}):
        pieces.append(each)
        given.fill_(1)
    torch.testing.assert_close(pieces, expected, rtol=0, atol=0)


def test_burn_in_without_gradients_leaves_the_initial_state_without_one_and_slicing_does_not():
    gru = nn.GRU(3, 5, batch_first=True)
    model = ContextualRNN(gru, FreeState(gru))
    x = torch.randn(2, 6, 3)
    (value,) = model.initial_state.parameters()
    silent, sliced = model(x, burn_in=2)[0], model(x)[0][:, 2:]
    torch.testing.assert_close(silent, sliced)
    assert torch.autograd.grad(silent.sum(), value, allow_unused=True) == (None,)
    assert torch.autograd.grad(sliced.sum(), value)[0].any()


@pytest.mark.parametrize("network", [nn.GRU, FastWeightsRNN])
def test_derivatives_carried_forward_do_not_pass_burn_in(network):
    """They are what the gradient says along the same vector: zero along the first steps and the initial state."""
    torch.manual_seed(0)
    rnn = network(3, 5, batch_first=True).double()
    model = ContextualRNN(rnn, ContextState(rnn, nn.Linear(2, 4)).double())
    given = torch.randn(9, 8, 3).double(), torch.randn(9, 2).double()
    along, reset = tuple(map(torch.randn_like, given)), torch.rand(9, 8) < 0.1

    def total(x, context):
        return model(x, context=context, reset=reset, burn_in=3)[0].sin().sum()

    gradients = torch.func.grad(total, (0, 1))(*given)
    expected = sum((gradient * vector).sum() for gradient, vector in zip(gradients, along, strict=True))
    torch.testing.assert_close(torch.func.jvp(total, given, along)[1], expected, rtol=1e-10, atol=1e-10)


def test_burn_in_returns_fast_weights_only_when_asked():
    for lengths in (None, torch.tensor([6, 2])):  # a row that ends within the burn-in keeps its h
        model = build("fast weights", torch.float32)
        x, context = torch.randn(2, 6, 3), torch.randn(2, 2)
        _, (_, a) = model(x, context=context, burn_in=3, lengths=lengths)
        assert a is not None
        model.network.return_fast_weights = False
        _, (_, a) = model(x, context=context, burn_in=3, lengths=lengths)
        assert a is None


def test_pieces_carry_fast_weights_that_nobody_asked_for():
    model = build("fast weights", torch.float64).eval()
    model.network.return_fast_weights = False
    x, context = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    pieces = [output for _, output, _ in truncated(model, x, 2, context=context)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(x, context=context)[0], rtol=0, atol=1e-12)


def test_detach_takes_any_structure_and_keeps_it():
    tensor = torch.ones(2, requires_grad=True) * 2
    other = object()
    state = {
        "a": [tensor, (tensor, None)],
        "b": LowRank(tensor, tensor),
        "c": other,
    }
    found = detach(state)
    assert not any(leaf.requires_grad for leaf in tensors_of(found))
    assert isinstance(found["a"], list)
    assert isinstance(found["a"][1], tuple)
    assert isinstance(found["b"], LowRank)
    assert found["c"] is other
    assert found["a"][0].data_ptr() == tensor.data_ptr(), "no copies"


def test_a_state_in_itself_cannot_be_detached():
    state = []
    state.append(state)
    with pytest.raises(ValueError, match=r"^state: expected tensors in tuples, lists and dicts, got too many"):
        detach(state)

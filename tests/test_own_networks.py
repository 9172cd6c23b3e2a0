"""Networks of somebody's own: lengths, masks, resets, pieces and generation equal each sequence alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.own_networks import OWN
from tests.sequences_alone import (
    ONE_WAY_OWN,
    STEPS,
    Batch,
    alone,
    assert_equal,
    batch_first,
    build,
    outcome,
    patterns,
    rows_of,
)
from torch.nn import functional

from contextual_rnn import truncated

F64 = torch.float64
BOTH = [*OWN, "lstm", "lstm deep both ways", "gru", "fast weights, dense A", "fast weights, low-rank A"]


@st.composite
def blocks(draw):
    """Lengths, resets and first steps: real steps anywhere in a row, or nowhere."""
    lengths, reset = draw(patterns())
    first = [draw(st.integers(0, STEPS - int(length))) for length in lengths]
    return lengths, reset, torch.tensor(first)


def check(model, batch, output, state, *how):
    found = outcome(model, batch, batch_first(model, output), rows_of(model, state))
    assert_equal(found, outcome(model, batch, *alone(model, batch, *how)))


@pytest.mark.parametrize("case", OWN)
@given(pattern=patterns(), explicit=st.booleans(), contexts=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=8)
def test_every_segment_is_as_if_alone(case, pattern, explicit, contexts):
    model = build(case, F64)
    batch = Batch.of(model, *pattern, explicit=explicit, reset_context=contexts)
    output, state = model(batch.input(model), batch.state(model), **batch.arguments(model))
    check(model, batch, output, state)


@pytest.mark.parametrize("case", BOTH)
@given(pattern=blocks(), explicit=st.booleans(), contexts=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=8)
def test_real_steps_may_stand_anywhere_in_a_row(case, pattern, explicit, contexts):
    lengths, reset, first = pattern
    model = build(case, F64)
    batch = Batch.of(model, lengths, reset, explicit=explicit, reset_context=contexts, first=first)
    output, state = model(batch.input(model), batch.state(model), **batch.arguments(model))
    check(model, batch, output, state)


@pytest.mark.parametrize("case", [*ONE_WAY_OWN, "lstm", "gru", "fast weights, dense A"])
@given(pattern=blocks(), size=st.integers(1, STEPS), explicit=st.booleans(), contexts=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=8)
def test_pieces_are_every_sequence_alone_in_pieces(case, pattern, size, explicit, contexts):
    lengths, reset, first = pattern
    model = build(case, F64)
    batch = Batch.of(model, lengths, reset, explicit=explicit, reset_context=contexts, first=first)
    given = batch.arguments(model)
    pieces = list(truncated(model, batch.input(model), size, batch.state(model), **given))
    whole = torch.cat([batch_first(model, output) for _, output, _ in pieces], 1)
    longest = max(1, int(torch.where(lengths > 0, first + lengths, 0).max()))
    whole = functional.pad(whole, (0, 0, 0, STEPS - whole.shape[1]))
    found = outcome(model, batch, whole, rows_of(model, pieces[-1][2]))
    assert_equal(found, outcome(model, batch, *alone(model, batch, tuple(range(size, longest, size)))))


@pytest.mark.parametrize("case", [*ONE_WAY_OWN, "lstm", "gru", "fast weights, dense A"])
@given(pattern=blocks(), steps=st.integers(1, STEPS - 1), explicit=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=8)
def test_burn_in_is_a_silent_first_piece(case, pattern, steps, explicit):
    lengths, reset, first = pattern
    first[0], lengths[0] = 0, STEPS  # there must be a step left to run
    model = build(case, F64)
    batch = Batch.of(model, lengths, reset, explicit=explicit, first=first)
    output, state = model(batch.input(model), batch.state(model), burn_in=steps, **batch.arguments(model))
    wanted, finals = alone(model, batch, (steps,), silent=steps)
    found = outcome(model, batch, batch_first(model, output), rows_of(model, state))
    assert_equal(found, outcome(model, batch, wanted[:, steps:], finals))

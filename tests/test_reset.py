"""A batch with resets is every piece between resets, run alone: forwards and backwards, from the states of its own."""

import pytest
import torch
from hypothesis import given, settings
from tests.sequences_alone import CASES, Batch, alone, assert_equal, batch_first, build, outcome, patterns, rows_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("case", CASES)
@given(pattern=patterns())
@settings(deadline=None, derandomize=True, max_examples=6)
def test_every_segment_is_as_if_alone(case, explicit, dtype, pattern):
    model = build(case, dtype)
    batch = Batch.of(model, *pattern, explicit=explicit)
    output, state = model(batch.input(model), batch.state(model), **batch.arguments())
    found = outcome(model, batch, batch_first(model, output), rows_of(model, state))
    assert_equal(found, outcome(model, batch, *alone(model, batch)))

"""A batch cut into segments: by the native library, by PyTorch, and row by row in Python."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contextual_rnn.ops.native.segments import cut
from contextual_rnn.sequences.segments import Segments, cut_by_torch


@st.composite
def batches(draw):
    """Flags, with the batch or the time first in memory, and first steps and lengths of rows or None."""
    batch, steps = draw(st.integers(0, 4)), draw(st.integers(0, 7))
    flags = torch.tensor(draw(st.lists(st.booleans(), min_size=batch * steps, max_size=batch * steps)))
    flags = flags.bool().reshape(batch, steps)
    flags = flags.T.contiguous().T if draw(st.booleans()) else flags
    if not draw(st.booleans()):
        return flags, None, None
    lengths = [draw(st.integers(0, steps)) for _ in range(batch)]
    first = [draw(st.integers(0, steps - length)) for length in lengths]
    first, lengths = (torch.tensor(each, dtype=torch.int64) for each in (first, lengths))
    return flags, first if draw(st.booleans()) else None, lengths


def cut_by_hand(flags, first, lengths):
    batch, steps = flags.shape
    segments = []
    for row in range(batch):
        start = 0 if first is None else int(first[row])
        stop = steps if lengths is None else start + int(lengths[row])
        begins = [start, *(step for step in range(start + 1, stop) if flags[row, step])]
        ends = [*begins[1:], stop]
        segments += [[row, a, b - a, int(b == stop)] for a, b in zip(begins, ends, strict=True)]
    return torch.tensor(segments, dtype=torch.int64).reshape(-1, 4).T


@pytest.mark.parametrize("way", [cut, cut_by_torch])
@settings(max_examples=200)
@given(batch=batches())
def test_segments_of_the_kernel_and_of_pytorch_are_those_cut_by_hand(way, batch):
    table = way(*batch)
    if table is None:
        pytest.skip("the library was not built: no C++ compiler")
    assert table.is_contiguous()
    assert torch.equal(table, cut_by_hand(*batch))


def test_tensors_that_lie_in_memory_as_they_are_not_read():
    """Zeros without memory, and numbers that are negated on reading."""
    lengths = torch.tensor([3, 1])
    zeros, negated = torch._efficientzerotensor(2, 3, dtype=torch.bool), torch._neg_view(-lengths)
    for ours in (cut(zeros, None, negated), cut_by_torch(zeros, None, negated)):
        assert ours is None or torch.equal(ours, cut_by_hand(zeros, None, lengths))


def test_torch_func_whose_tensors_have_no_memory_of_their_own():
    flags, lengths = torch.tensor([[False, True, True], [True, False, True]]), torch.tensor([3, 1])
    tables = []

    def loss(x):
        tables.append(Segments.between(flags, None, lengths + 0).table)
        return x.sum()

    torch.func.grad(loss)(torch.ones(3))
    assert tables[0].tolist() == cut_by_hand(flags, None, lengths).tolist()

"""A padded batch cut at its resets: every segment is a sequence of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


@dataclass(frozen=True)
class Segments:
    """The segments of a batch, row by row and in time; all tensors are on the CPU.

    row (N,): the row of the batch that a segment is of. reset (N,): the number of the reset that it begins with, -1
    for none. start (N,) and length (N,): its steps. last (B,): the last segment of each row, -1 where a row has none.
    """

    row: Tensor
    reset: Tensor
    start: Tensor
    length: Tensor
    last: Tensor

    @classmethod
    def between(cls, resets: Tensor, lengths: Tensor) -> Segments:
        """Cut rows of `lengths` (B,), 0 allowed, before each step where `resets` (B, T) is not -1."""
        batch, steps = resets.shape
        begins = resets >= 0
        begins[:, :1] = True
        begins &= torch.arange(steps) < lengths[:, None]
        row, start = begins.nonzero(as_tuple=True)
        end = lengths[row]
        goes_on = row[1:] == row[:-1]  # the next segment is of the same row
        end[:-1] = torch.where(goes_on, start[1:], end[:-1])
        last = torch.full((batch,), -1)
        ends_row = torch.cat([~goes_on, row.new_ones(min(1, len(row)), dtype=torch.bool)])
        last[row[ends_row]] = ends_row.nonzero()[:, 0]
        return cls(row, resets[row, start], start, end - start, last)

    def beginning(self, steps: int) -> Tensor:
        """(B, T): the segment that begins at a step of a row, -1 for none."""
        begun = torch.full((len(self.last), steps), -1)
        begun[self.row, self.start] = torch.arange(len(self.row))
        return begun

    def packed(self, input: Tensor, time: int) -> tuple[PackedSequence, Tensor]:
        """The segments of a padded input as a packed batch, and the place of each of its steps in the padded one."""
        order = self.length.argsort(descending=True, stable=True)
        longest = int(self.length.max())
        sizes = (self.length > torch.arange(longest)[:, None]).sum(1)
        step = torch.arange(longest).repeat_interleave(sizes)
        segment = order[torch.arange(len(step)) - (sizes.cumsum(0) - sizes)[step]]
        row, time_step = self.row[segment], self.start[segment] + step
        place = row * input.shape[1] + time_step if time == 1 else time_step * input.shape[1] + row
        place = place.to(input.device)
        data = input.flatten(0, 1).index_select(0, place)
        return PackedSequence(data, sizes, order.to(input.device), None), place

"""A padded batch cut at its resets: every segment is a sequence of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from contextual_rnn.ops.native.segments import cut

# Fast weights of 50 and 64 units on a core of an AMD EPYC (Zen 4), forward and backward: one more call takes as long as
# some 8000 steps of padding, most of which the kernel leaves out.
_SHORTER, _WORTH_A_CALL = 0.75, 8000


@dataclass(eq=False, slots=True)
class Segments:
    """The segments of a batch, row by row and in time.

    table (4, N), int64 on the CPU, has the row, the first step and the number of steps of each, and 1 for the last of
    its row, 0 for others, as `ops._gated` reads it. A row without a step has one segment, of length 0.
    """

    table: Tensor

    @classmethod
    def between(cls, resets: Tensor, first: Tensor | None, lengths: Tensor | None) -> Segments:
        """Cut rows of `lengths` (B,) steps from `first` (B,) before each step where `resets` (B, T) is True.

        Without `first` all rows begin at 0, without both they have all steps.
        """
        table = cut(resets, first, lengths)
        return cls(cut_by_torch(resets, first, lengths) if table is None else table)

    @property
    def row(self) -> Tensor:
        return self.table[0]

    @property
    def start(self) -> Tensor:
        return self.table[1]

    @property
    def length(self) -> Tensor:
        return self.table[2]

    @property
    def last(self) -> Tensor:
        """The last segment of each row, (B,)."""
        return self.table[3].nonzero()[:, 0]

    def where(self, flags: Tensor | None) -> Tensor:
        """Whether `flags` (B, T) are True where a segment begins; not where it has no step."""
        running, chosen = self.running, torch.zeros_like(self.row, dtype=torch.bool)
        if flags is not None:
            chosen[running] = flags[self.row[running], self.start[running]]
        return chosen

    @property
    def running(self) -> Tensor:
        """The segments that have a step."""
        return self.length.nonzero()[:, 0]

    def of_about_one_length(self) -> list[Tensor]:
        """The segments that have a step in groups, to be padded to the longest of each.

        A group ends where segments are shorter than `_SHORTER` of its longest and padding all that follow would be more
        than `_WORTH_A_CALL` steps.
        """
        running = self.running
        order = running[self.length[running].argsort(descending=True, stable=True)]
        lengths = self.length[order].tolist()
        bounds = [0]
        for place, length in enumerate(lengths):
            longest = lengths[bounds[-1]]
            if length < _SHORTER * longest and (len(lengths) - place) * (longest - length) > _WORTH_A_CALL:
                bounds.append(place)
        return list(order.tensor_split(bounds[1:]))

    def only(self, index: Tensor) -> Segments:
        """Only the segments `index`."""
        return Segments(self.table[:, index])

    def places(self, input: Tensor, time: int) -> Tensor:
        """Where each step of the segments is in an input with its first two axes as one, padded by the last: (N, T)."""
        step = torch.arange(int(self.length.max()), device="cpu").minimum(self.length[:, None] - 1)
        return self._place(input, time, self.row[:, None], self.start[:, None] + step)

    @staticmethod
    def _place(input: Tensor, time: int, row: Tensor, step: Tensor) -> Tensor:
        return row * input.shape[1] + step if time == 1 else step * input.shape[1] + row

    def packed(self, input: Tensor, time: int) -> tuple[PackedSequence, Tensor]:
        """The segments of a padded input as a packed batch, and the place of each of its steps in the padded one."""
        order = self.length.argsort(descending=True, stable=True)
        longest, ended = int(self.length.max()), self.length.bincount().cumsum(0)
        sizes = len(order) - ended[:-1]  # how many have more than so many steps
        step = torch.arange(longest, device="cpu").repeat_interleave(sizes)
        segment = order[torch.arange(len(step), device="cpu") - (sizes.cumsum(0) - sizes)[step]]
        place = self._place(input, time, self.row[segment], self.start[segment] + step).to(input.device)
        data = input.flatten(0, 1).index_select(0, place)
        return PackedSequence(data, sizes, order.to(input.device), None), place


def cut_by_torch(resets: Tensor, first: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The table of `Segments.between`, where there is no native library."""
    batch, steps = resets.shape
    begins = resets.new_zeros(batch, steps + 1)  # a row without a step may begin after the last
    begins[:, :steps] = resets
    if lengths is None:
        lengths = torch.full((batch,), steps, device="cpu")
    first = torch.zeros_like(lengths) if first is None else first
    stop, step = first + lengths, torch.arange(steps + 1, device="cpu")
    begins &= (step > first[:, None]) & (step < stop[:, None])
    begins.scatter_(1, first[:, None], True)
    row, start = begins.nonzero(as_tuple=True)
    last = row.roll(-1) != row
    last[-1:] = True
    return torch.stack([row, start, torch.where(last, stop[row], start.roll(-1)) - start, last.long()])

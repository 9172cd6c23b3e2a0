"""What a native kernel of one layer and direction of nn.RNN, nn.LSTM or nn.GRU is given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# The cells, in the order of csrc/problem.h, and how many gates each has in torch's matrices.
CELLS = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_NAMES = list(CELLS)


class Given(NamedTuple):
    """The tensors of one call, in the order of the operator's arguments; all but `table` have gradients.

    inputs (B, T, I), of any strides; weight_ih (G H, I), weight_hh (G H, O), h0 (1, N, O), c0 (1, N, H) of an LSTM
    alone, bias_ih and bias_hh (G H,) together or not at all, weight_hr (O, H) of an LSTM with a projection: O is H
    elsewhere. table (4, N) int64 has the row, the first step and the number of steps of each of N segments, and 1 for
    the last of its row, 0 for others. Every row has exactly one that is its last. Checked for shape, dtype and device.
    """

    inputs: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    h0: Tensor
    c0: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_hr: Tensor | None
    table: Tensor


class Settings(NamedTuple):
    """The numbers of one call: the place of the cell in `CELLS`, and whether segments run from their last step on."""

    cell: int
    reverse: bool

    @classmethod
    def of(cls, mode: str, reverse: bool) -> Settings:
        return cls(_NAMES.index(mode), reverse)

    @property
    def mode(self) -> str:
        """As nn.RNNBase has it."""
        return _NAMES[self.cell]

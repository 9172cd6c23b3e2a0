"""Sequences that stand anywhere in a padded batch, by the kernel of a CPU."""

from __future__ import annotations

from torch import Tensor

from contextual_rnn._shapes import Float, Int
from contextual_rnn.ops._fast_weights.attention import final_fast_weights
from contextual_rnn.ops._fast_weights.backend import prepare
from contextual_rnn.ops._fast_weights.dispatch import check_tensors
from contextual_rnn.ops._fast_weights.operation import OPERATIONS
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank
from contextual_rnn.ops.native.autograd import run_eagerly


def run(
    inputs: Float[Tensor, "B T I"],
    table: Int[Tensor, "4 N"],
    weight_hh: Float[Tensor, "H H"],
    h0: Float[Tensor, "N H"],
    a0: Float[Tensor, "N H H"] | LowRank | None,
    norm_weight: Float[Tensor, " H"] | None,
    norm_bias: Float[Tensor, " H"] | None,
    options: FastWeightsOptions,
    weight_ih: Float[Tensor, "H I"],
    bias: Float[Tensor, " H"] | None,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H H"] | None]:
    """The outputs of segments by the kernel of a CPU, which reads and writes each where it stands; zero elsewhere.

    `table` has the row, the first step and the number of steps of each, and whether it is the last of its row, of which
    each has one: the options may ask for the A after it. The kernel works on several that follow each other until the
    longest of them ends, so that the longest should be first. Raises ValueError or TypeError for tensors that do not
    fit.
    """
    row, start, length, is_last = table
    check_tensors(inputs, weight_hh, h0, a0, norm_weight, norm_bias, options, weight_ih, bias, len(row))
    given, settings = prepare(
        inputs, max(1, int(length.max())), weight_hh, h0, a0, norm_weight, norm_bias, length, options, weight_ih, bias
    )
    given = given._replace(places=row * inputs.shape[1] + start)
    wanted = options.return_fast_weights
    output, written = run_eagerly(OPERATIONS["cpu"], given, settings, wanted and settings.write_before_read)
    if not wanted:
        return output, None
    last = is_last.nonzero()[:, 0]
    last = last[row[last].argsort()]
    if a0 is not None:
        a0 = LowRank(*(factor[last] for factor in a0)) if isinstance(a0, LowRank) else a0[last]
    tables = given.discounts, given.retained
    return output, final_fast_weights(output if written is None else written, a0, length[last], tables, start[last])

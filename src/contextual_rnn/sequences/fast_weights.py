"""Segments of fast weights by the native kernel, which reads and writes each where it stands in a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contextual_rnn.layers.fast_weights import FastWeightsRNN
from contextual_rnn.layers.fast_weights_state import check_batch, split_state
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.choice import choose as choose_kernel
from contextual_rnn.ops._fast_weights.segments import run
from contextual_rnn.ops.native.library import lanes
from contextual_rnn.sequences.backend import choose
from contextual_rnn.sequences.segments import Segments
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.rows import check_open_parts, read_rows, take, tensors_of
from contextual_rnn.spec.tree import State


def check_cut(network: nn.Module, spec: StateSpec, hx: State | None, rows: int | None) -> None:
    """Refuse a state of a batch of which what the spec leaves open does not fit: its rows are picked one by one."""
    if hx is None:
        return
    check_open_parts("hx", spec.tree, hx, rows)
    if rows is not None and isinstance(network, FastWeightsRNN):
        check_batch(hx)


# So many steps of padding beside the longest of the segments that the kernel works on at once take little memory. A
# long segment among short ones takes as much as 16 long ones; those worked on after it take less than the batch.
_PADDED = 100_000


def reads_segments(network: FastWeightsRNN, backend: str, input: Tensor, segments: Segments, state: State) -> bool:
    """Whether the native kernel of fast weights can be called in place of the network."""
    chosen = choose(backend, network, [input, *tensors_of(state)], kinds=(FastWeightsRNN,))
    if chosen != "native" or choose_kernel(network.backend, network.weight_hh) != "cpu":
        return False
    if not cpu.projects(network.weight_ih):
        return False
    together = lanes(input.dtype)
    if together * input.shape[network.batch_first] <= _PADDED:
        return True
    longest = segments.length.topk(min(together, len(segments.length))).values.tolist()
    return len(longest) * longest[0] - sum(longest) <= max(_PADDED, input.shape[0] * input.shape[1])


def run_in_place(
    network: FastWeightsRNN,
    spec: StateSpec,
    input: Tensor,
    segments: Segments,
    starts: State,
    *,
    return_fast_weights: bool = False,
) -> tuple[Tensor, State]:
    """All segments in one call of the kernel of fast weights, the longest first."""
    time_first = spec.input_batch_dim == 1
    input = input.transpose(0, 1) if time_first else input
    order = segments.length.argsort(descending=True, stable=True)
    h0, a0 = split_state(read_rows(spec.tree, order, starts))
    assert h0 is not None
    output, a_n = run(
        input, segments.only(order).table, network.weight_hh, h0, a0, network.norm_weight, network.norm_bias,
        network.options._replace(return_fast_weights=return_fast_weights), network.weight_ih, network.bias,
    )  # fmt: skip
    last = segments.last
    ends = segments.only(last)
    place = (ends.row * input.shape[1] + ends.start + ends.length - 1).clamp(min=0)
    h_n = output.flatten(0, 1).index_select(0, place)
    if not ends.length.all():
        h_n = torch.where((ends.length > 0)[:, None], h_n, tensors_of(take(spec.tree, last, starts))[0])
    return output.transpose(0, 1) if time_first else output, (h_n, a_n)

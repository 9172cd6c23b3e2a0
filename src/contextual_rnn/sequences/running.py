"""Segments of a padded batch, run by a network of any kind as if each were alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._autocast import in_autocast
from contextual_rnn.layers.fast_weights import FastWeightsRNN
from contextual_rnn.ops.native.library import lanes
from contextual_rnn.sequences.backend import choose, is_small, whole_rows
from contextual_rnn.sequences.backend import run as run_over
from contextual_rnn.sequences.fast_weights import reads_segments, run_in_place
from contextual_rnn.sequences.padded import needs_no_packing, run_packed, run_padded
from contextual_rnn.sequences.segments import Segments
from contextual_rnn.spec.arguments import Inputs, flat_places
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.rows import (
    as_returned,
    has_none,
    split,
    take,
    take_of_all,
    tensors_of,
    write_rows,
)
from contextual_rnn.spec.steps import call, own_copy, run_sequence, runs_as_torch_does, step_of
from contextual_rnn.spec.tree import State


def takes_packed(network: nn.Module) -> bool:
    """Whether the network runs a batch of different lengths in one call."""
    return runs_as_torch_does(network) or isinstance(network, FastWeightsRNN)


def runs_whole_rows(network: nn.Module, input: Tensor, final_state: bool) -> bool:
    """Whether the network runs rows of different lengths without a look at the lengths, as if the rows were whole."""
    if isinstance(network, FastWeightsRNN):
        return True
    return needs_no_packing(network, final_state) and not in_autocast(input.device)


def run_rows(
    network: nn.Module,
    spec: StateSpec,
    input: Tensor,
    lengths: Tensor | None,
    state: State,
    backend: str,
    arguments: Mapping[str, Any],
    *,
    carry: bool,
    final_state: bool,
) -> Any:
    """Each row a sequence from its first step on, of all steps or of `lengths`, in one call of the network.

    Without `final_state` that is of no use in what is returned.
    """
    batch = input.shape[spec.input_batch_dim]
    if batch and isinstance(network, nn.RNNBase):
        like_torch = lengths is None or is_small(network, input)
        chosen = choose(backend, network, [input, *tensors_of(state)], like_torch)
        if chosen != "torch":
            table = whole_rows(batch, input.shape[_time(spec)], None if lengths is None else lengths.cpu())
            return run_over(chosen, network, input, state, table)
    options = whole(network, carry)
    if lengths is None or not batch:  # torch packs no empty batch
        return call(network, spec, input, own_copy(network, state), **options, **arguments)
    if isinstance(network, FastWeightsRNN):
        several = batch > lanes(input.dtype)  # blocks of the kernel, each of sequences of about one length
        if several and not torch.compiler.is_compiling():
            segments = Segments(whole_rows(batch, input.shape[_time(spec)], lengths.cpu()))
            if reads_segments(network, backend, input, segments, state):
                return run_in_place(network, spec, input, segments, state, **options)
        return network(input, state, lengths=lengths, **options)
    if needs_no_packing(network, final_state) and not in_autocast(input.device):
        return run_padded(network, input, state, lengths)
    return run_packed(network, input, state, lengths, spec.input_batch_dim == 0)


def run_segments(
    network: nn.Module,
    spec: StateSpec,
    inputs: Inputs,
    segments: Segments,
    starts: State,
    carry: bool,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Outputs in the layout of `inputs`, zero outside the segments, and the state after each row's last segment.

    `starts` has a row for each segment; one without a step ends as it starts. With `carry` the states are whole, A of
    fast weights included.
    """
    in_one_call = takes_packed(network)
    # State that the spec does not describe may be lost between pieces.
    undivided = spec.bidirectional or (has_none(spec.tree) and not carry)
    if not segments.length.any():
        whole_spec = replace(spec, step=None) if in_one_call or undivided else spec
        return _nothing(network, whole_spec, inputs, take(spec.tree, segments.last, starts), carry)
    if isinstance(network, nn.RNNBase):
        chosen = choose(backend, network, [inputs.tensor, *tensors_of(starts)], is_small(network, inputs.tensor))
        if chosen != "torch":
            return run_over(chosen, network, inputs.tensor, starts, segments.table)
    if isinstance(network, FastWeightsRNN):
        if reads_segments(network, backend, inputs.tensor, segments, starts):
            return run_in_place(network, spec, inputs.tensor, segments, starts, **whole(network, carry))
        return _in_blocks(network, spec, inputs, segments, starts, carry)
    if in_one_call:
        return _in_one_call(network, spec, inputs, segments, starts)
    return (_by_length if undivided else _in_pieces)(network, spec, inputs, segments, starts)


def whole(network: nn.Module, carry: bool) -> dict[str, Any]:
    """The arguments that have `network` return all that it carries."""
    wanted = isinstance(network, FastWeightsRNN) and (carry or network.return_fast_weights)
    return {"return_fast_weights": True} if wanted else {}


def _in_one_call(
    network: nn.Module, spec: StateSpec, inputs: Inputs, segments: Segments, starts: State
) -> tuple[Tensor, State]:
    """All segments as one packed batch."""
    running = segments.running
    everywhere = len(running) == len(segments.row)
    some = segments if everywhere else segments.only(running)
    input = inputs.tensor
    packed, place = some.packed(input, _time(spec))
    output, state = network(packed, starts if everywhere else take(spec.tree, running, starts))
    padded = output.data.new_zeros(input.shape[0] * input.shape[1], *output.data.shape[1:])
    padded = padded.index_copy(0, place, output.data).unflatten(0, input.shape[:2])
    if everywhere:
        return padded, take(spec.tree, segments.last, state)
    return padded, _finals(spec, segments, starts, running, [state])


def _in_blocks(
    network: FastWeightsRNN, spec: StateSpec, inputs: Inputs, segments: Segments, starts: State, carry: bool
) -> tuple[Tensor, State]:
    """All segments in a few padded batches, of about one length each; in one on a GPU, where padding costs little."""
    time, input = _time(spec), inputs.tensor
    groups = segments.of_about_one_length() if input.is_cpu else [segments.running]
    steps, outputs, states = input.flatten(0, 1), [], []
    # Of each step of the input, in all outputs, whose last is zero where there is padding.
    source = torch.full(steps.shape[:1], -1, device="cpu")
    count = 0
    for group in groups:
        some = segments.only(group)
        places = some.places(input, time)
        block = steps.index_select(0, places.flatten().to(input.device)).unflatten(0, places.shape)
        block, first = block.transpose(0, 1 - time), take(spec.tree, group, starts)
        output, state = network(block, first, lengths=some.length, **whole(network, carry))
        number = torch.arange(count, count := count + places.numel(), device="cpu").view(places.shape)
        real = torch.arange(places.shape[1], device="cpu") < some.length[:, None]
        source[places[real]] = number[real]
        outputs.append(output.transpose(0, 1 - time).flatten(0, 1))
        states.append(state)
    if bool((padding := source < 0).any()):
        outputs.append(outputs[0].new_zeros(1, outputs[0].shape[1]))
        source[padding] = count
    every = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    output = every.index_select(0, source.to(input.device)).unflatten(0, input.shape[:2])
    return output, _finals(spec, segments, starts, torch.cat(groups), states)


def _by_length(
    network: nn.Module, spec: StateSpec, inputs: Inputs, segments: Segments, starts: State
) -> tuple[Tensor, State]:
    """Segments of one length as a batch, length after length, for a network that cannot continue from the middle."""
    axes, running = (spec.input_batch_dim, _time(spec)), segments.running
    batch, steps = inputs.tensor.movedim(axes, (0, 1)).shape[:2]
    order = running[segments.length[running].argsort(stable=True)]
    some = segments.only(order)
    lengths, counts = (each.tolist() for each in some.length.unique_consecutive(return_counts=True))
    groups = zip(lengths, some.row.split(counts), some.start.split(counts), strict=True)
    places = [(row, start[:, None] + torch.arange(length, device="cpu")) for length, row, start in groups]
    blocks, firsts = inputs.blocks(places), split(spec.tree, take(spec.tree, order, starts), counts)
    outputs, states = [], []
    for block, first in zip(blocks, firsts, strict=True):
        output, state = run_sequence(network, spec, block.tensor, first, **block.arguments)
        outputs.append(output.movedim(axes, (0, 1)).flatten(0, 1))
        states.append(state)
    place = flat_places(places, steps).to(outputs[0].device)
    padded = outputs[0].new_zeros(batch * steps, *outputs[0].shape[1:]).index_copy(0, place, torch.cat(outputs))
    return padded.unflatten(0, (batch, steps)).movedim((0, 1), axes), _finals(spec, segments, starts, order, states)


def _in_pieces(
    network: nn.Module, spec: StateSpec, inputs: Inputs, segments: Segments, starts: State
) -> tuple[Tensor, State]:
    """The batch cut at each step where a segment begins or ends, or at every step where the spec has its own `step`.

    Rows without a segment are left out of a piece, so that padding is not read.
    """
    last = segments.last
    steps, batch = inputs.tensor.shape[_time(spec)], len(last)
    begins = torch.full((steps + 1, batch), -1, device="cpu")
    ends = torch.zeros_like(begins, dtype=torch.bool)
    running = segments.running
    row, start, length = segments.row[running], segments.start[running], segments.length[running]
    begins[start, row] = running
    ends[start + length, row] = True
    cuts = ((begins >= 0) | ends).any(1)
    if spec.step is not None:
        cuts[: steps + 1] = True
    bounds = cuts.nonzero()[:, 0].tolist()
    one_each = torch.cat([last.new_zeros(1), last[:-1] + 1])[:batch]
    state, live = take(spec.tree, one_each, starts), torch.zeros(batch, dtype=torch.bool, device="cpu")
    # Cut at once: a piece of its own would have a gradient of the whole.
    anew = begins >= 0
    sizes = anew.sum(1)
    new_states = iter(split(spec.tree, take(spec.tree, begins[anew], starts), sizes[sizes > 0].tolist()))
    cut = inputs.split([bounds[0], *(stop - first for first, stop in pairwise(bounds)), steps - bounds[-1]])[1:]
    pieces: list[tuple[int, int, Tensor, Tensor]] = []
    for (first, stop), piece in zip(pairwise(bounds), cut, strict=False):
        live = (live & ~ends[first]) | anew[first]
        index = live.nonzero()[:, 0]
        if not len(index):
            continue
        if sizes[first]:
            state = write_rows(spec.tree, state, anew[first].nonzero()[:, 0], next(new_states), batch)
        everywhere = len(index) == batch
        if not everywhere:
            piece = piece.rows(index)
        output, new = _run_piece(network, spec, piece, state if everywhere else take(spec.tree, index, state))
        state = new if everywhere else write_rows(spec.tree, state, index, new, batch)
        pieces.append((first, stop, index, output))
    return _joined(pieces, spec, batch, steps), state


def _run_piece(
    network: nn.Module, spec: StateSpec, inputs: Inputs, state: State, **options: Any
) -> tuple[Tensor, State]:
    if spec.step is None:
        return run_sequence(network, spec, inputs.tensor, state, **inputs.arguments, **options)
    time, batch = _time(spec), spec.input_batch_dim
    place = batch - 1 if time < batch else batch
    step = inputs.step(0)
    output, state = step_of(network, spec, step.tensor, state, **step.arguments)
    return output.movedim(0, place).unsqueeze(time), state


def _joined(pieces: list[tuple[int, int, Tensor, Tensor]], spec: StateSpec, batch: int, steps: int) -> Tensor:
    """Outputs of pieces, (first step, last + 1, rows, output), in one padded batch of zeros."""
    time, outputs, done = _time(spec), [], 0
    like = pieces[0][3]

    def zeros(steps: int) -> Tensor:
        shape = list(like.shape)
        shape[time], shape[spec.input_batch_dim] = steps, batch
        return like.new_zeros(shape)

    for first, stop, index, output in pieces:
        if first > done:
            outputs.append(zeros(first - done))
        if len(index) < batch:
            output = zeros(stop - first).index_copy(spec.input_batch_dim, index.to(output.device), output)
        outputs.append(output)
        done = stop
    if done < steps:
        outputs.append(zeros(steps - done))
    return torch.cat(outputs, time)


def _nothing(network: nn.Module, spec: StateSpec, inputs: Inputs, state: State, carry: bool) -> tuple[Tensor, State]:
    """No row has a step. One step of zeros gives the shape of an output; every parameter gets a gradient of zero."""
    time, batch = _time(spec), inputs.tensor.shape[spec.input_batch_dim]
    output, new = _run_piece(network, spec, inputs.one_step_of_zeros(), state, **whole(network, carry))
    shape = list(output.shape)
    shape[time] = inputs.tensor.shape[time]
    zeros = output.masked_fill(torch.ones((), dtype=torch.bool, device=output.device), 0).expand(shape).contiguous()
    states = [as_returned(spec.tree, state, new), new]  # in the form that fast weights have afterwards
    return zeros, take_of_all(spec.tree, torch.arange(batch, device="cpu"), states, [batch, batch])


def _finals(spec: StateSpec, segments: Segments, starts: State, order: Tensor, states: list[State]) -> State:
    """The state after each row's last segment; `states` are of the segments `order`, one after the other."""
    count = len(segments.row)
    place = torch.arange(count, device="cpu")
    place[order] = count + torch.arange(len(order), device="cpu")
    leaf = next(iter(spec))
    counts = [count, *(spec.unpack(state)[leaf.name].shape[0] for state in states)]
    return take_of_all(spec.tree, place[segments.last], [as_returned(spec.tree, starts, states[0]), *states], counts)


def _time(spec: StateSpec) -> int:
    assert isinstance(spec.known_time_dim, int)
    return spec.known_time_dim

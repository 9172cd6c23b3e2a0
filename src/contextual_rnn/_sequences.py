"""A batch of sequences as they are: of different lengths, starting anew in the middle, run in pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from contextual_rnn._lengths import check_flags, check_lengths, lengths_of, packed_like
from contextual_rnn._numbers import check_size
from contextual_rnn._rows import take, take_of_both
from contextual_rnn._segments import Segments
from contextual_rnn._tree import State
from contextual_rnn.fast_weights import FastWeightsRNN
from contextual_rnn.state_spec import StateSpec

if TYPE_CHECKING:
    from contextual_rnn.rnn import ContextualRNN


@dataclass(frozen=True)
class Sequences:
    """A padded batch and what `ContextualRNN` was told about its sequences; `of` checks the arguments.

    lengths (B,); 0 where a row ended in an earlier piece, which `ended` says of some. resets (B, T), on the CPU: the
    number of the reset before a step, counted row by row, -1 for none. T is 1 where only the first step can have one.
    """

    model: ContextualRNN
    spec: StateSpec
    input: Tensor
    batch: int
    context: Any = None
    generator: torch.Generator | None = None
    lengths: Tensor | None = None
    resets: Tensor | None = None
    num_resets: int = 0
    reset_context: Any = None
    ended: bool = False
    packed: PackedSequence | None = None

    @classmethod
    def of(
        cls,
        model: ContextualRNN,
        spec: StateSpec,
        input: Tensor | PackedSequence,
        context: Any,
        generator: torch.Generator | None,
        *,
        lengths: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
        reset_context: Any,
        pieces: str | None = None,
    ) -> Sequences:
        """Check what was told; `pieces` is the argument that has the batch run in pieces, if one has."""
        said = {pieces: pieces, "lengths": lengths, "mask": mask, "reset": reset, "reset_context": reset_context}
        name = next(name for name, argument in said.items() if argument is not None)
        whole, one_step = None, spec.input_ndim == 2
        if isinstance(input, PackedSequence) and name == "reset":
            whole = input
            input, lengths = pad_packed_sequence(input, batch_first=spec.input_batch_dim == 0)
        batch = spec.input_batch_size(input) if isinstance(input, Tensor) else None
        if batch is None or (one_step and name not in ("reset", "reset_context")):
            came = "an input of one step" if batch is not None else "a packed or unbatched input"
            raise ValueError(f"{name}: expected only with a padded batch of sequences, got {came}")
        assert isinstance(input, Tensor)
        self = cls(model, spec, input, batch, context, generator, packed=whole)
        known = _takes_lengths(model.network) or spec.has_own_step
        if not known and name != "reset":
            expected = "nn.RNN, nn.LSTM, nn.GRU, FastWeightsRNN, or a network whose StateSpec has a step"
            raise ValueError(f"{name}: expected only with {expected}, got {type(model.network).__name__}")
        if pieces is not None and getattr(model.network, "bidirectional", False):
            raise ValueError(f"{pieces}: expected only with a network of one direction, got a bidirectional one")
        if mask is not None:
            if lengths is not None:
                raise ValueError("mask: expected none beside lengths, which say the same")
            lengths = lengths_of(mask, batch, self.num_steps)
        elif lengths is not None:
            check_lengths(lengths, batch, self.num_steps)
        if reset is None:
            if reset_context is not None:
                raise ValueError("reset_context: expected only with reset, got it alone")
            return replace(self, lengths=lengths)
        first_alone = isinstance(reset, Tensor) and reset.ndim == 1 and spec.input_ndim != 3
        check_flags("reset", reset, (batch,) if one_step or first_alone or not known else (batch, self.num_steps))
        flags = reset.cpu().reshape(batch, -1 if batch else 1)
        resets, num_resets = torch.full(flags.shape, -1), int(flags.sum())
        resets[flags] = torch.arange(num_resets)
        return replace(self, lengths=lengths, resets=resets, num_resets=num_resets, reset_context=reset_context)

    @property
    def time(self) -> int:
        return 1 - self.spec.input_batch_dim

    @property
    def num_steps(self) -> int:
        return self.input.shape[self.time]

    def steps(self, start: int, stop: int) -> Sequences:
        """The piece from step `start` to before `stop`."""
        lengths, ended = self.lengths, False
        if lengths is not None:
            _refuse_tracing("lengths")
            lengths = (lengths - start).clamp(0, stop - start)
            ended = start > 0 and not torch.compiler.is_compiling() and bool((lengths == 0).any())
        return replace(
            self,
            input=self.input.narrow(self.time, start, stop - start),
            lengths=lengths,
            ended=ended,
            resets=None if self.resets is None else self.resets[:, start:stop],
        )

    def split(self, name: str, step: int) -> tuple[Sequences, Sequences]:
        """The pieces before and from `step`, which is the argument `name`."""
        step = check_size(name, step)
        if step >= self.num_steps:
            raise ValueError(f"{name}: expected fewer steps than the input's {self.num_steps}, got {step}")
        after = self.steps(step, self.num_steps)
        if after.over:
            raise ValueError(f"{name}: expected fewer steps than the longest sequence has, got {step}")
        return self.steps(0, step), after

    @property
    def over(self) -> bool:
        """Whether no row has a step left."""
        return self.ended and self.lengths is not None and not bool(self.lengths.any())

    def run(self, hx: State | None, *, carry: bool = False) -> Any:
        """Output and final state, from `hx` or the initial state; with `carry` the state is whole, A included."""
        if self.packed is None:
            return self._run(hx, carry)
        output, state = self._run(hx, carry)
        return packed_like(self.packed, output, self.time), state

    def _run(self, hx: State | None, carry: bool) -> Any:
        network = self.model.network
        options = {"return_fast_weights": True} if carry and isinstance(network, FastWeightsRNN) else {}
        by_steps = self.lengths is not None and not _takes_lengths(network)
        if not self.batch or (self.resets is None and not self.ended and not by_steps):
            hx = self.model._start(self.context, self.batch, self.generator) if hx is None else hx
            return self._whole_rows(hx, options)
        _refuse_tracing("lengths" if self.resets is None else "reset")
        resets = torch.full((self.batch, self.num_steps), -1) if self.resets is None else self.resets
        lengths = torch.full((self.batch,), resets.shape[1]) if self.lengths is None else self.lengths.cpu()
        segments = Segments.between(resets, lengths.clamp(max=resets.shape[1]))
        starts = self._starts(hx, segments)
        if len(segments.row) == self.batch and not self.ended and not by_steps:
            return self._whole_rows(starts, options)
        if not _takes_lengths(network):
            return self._step_by_step(hx, starts, segments)
        packed, place = segments.packed(self.input, self.time)
        output, state = network(packed, starts, **options)
        padded = output.data.new_zeros(self.batch * self.num_steps, *output.data.shape[1:])
        padded = padded.index_copy(0, place, output.data).unflatten(0, self.input.shape[:2])
        return padded, self._finals(hx, state, segments)

    def _whole_rows(self, hx: State, options: dict[str, bool]) -> Any:
        """Every row is one sequence."""
        network, lengths = self.model.network, self.lengths
        if lengths is None or not self.batch:  # torch packs no empty batch
            return network(self.input, hx, **options)
        if not isinstance(network, nn.RNNBase):
            return network(self.input, hx, lengths=lengths, **options)
        batch_first = network.batch_first
        packed = pack_padded_sequence(self.input, lengths.cpu(), batch_first=batch_first, enforce_sorted=False)
        output, state = network(packed, hx)
        return pad_packed_sequence(output, batch_first=batch_first, total_length=self.num_steps)[0], state

    def _starts(self, hx: State | None, segments: Segments) -> State:
        """The state that each segment starts from."""
        make, rows = self.model._start, segments.row
        if hx is None and self.reset_context is None:
            return make(self.context, self.batch, self.generator, rows)
        going_on, anew = (segments.reset < 0).nonzero()[:, 0], (segments.reset >= 0).nonzero()[:, 0]
        first = second = None
        if hx is not None:
            first = take(self.spec.tree, rows[going_on], hx)
        elif len(going_on):
            first = make(self.context, self.batch, self.generator, rows[going_on])
        if self.num_resets and self.reset_context is not None:
            second = make(self.reset_context, self.num_resets, self.generator, segments.reset[anew])
        elif self.resets is not None and self.reset_context is None:
            # Also where this time nothing is reset: parameters that only some calls use are trouble for DDP.
            second = make(self.context, self.batch, self.generator, rows[anew])
        if first is None or second is None:
            return second if first is None else first
        place = torch.cat([going_on, anew]).argsort()
        return take_of_both(self.spec.tree, place, first, len(going_on), second, len(anew))

    def _finals(self, hx: State | None, state: State, segments: Segments) -> State:
        """The state after each row's last segment; rows that have none keep theirs."""
        if not self.ended:
            return take(self.spec.tree, segments.last, state)
        if isinstance(self.model.network, FastWeightsRNN) and hx is not None and state[1] is None:
            hx = (hx[0], None)  # A was not asked for
        place = torch.where(segments.last < 0, torch.arange(self.batch), self.batch + segments.last)
        return take_of_both(self.spec.tree, place, hx, self.batch, state, len(segments.row))

    def _step_by_step(self, state: State | None, starts: State, segments: Segments) -> tuple[Tensor, State]:
        """For networks that are known by their step alone."""
        rows, outputs = torch.arange(self.batch), []
        begun = segments.beginning(self.num_steps)
        for step, input in enumerate(self.input.unbind(self.time)):
            now = begun[:, step]
            if bool((now >= 0).all()):
                state = take(self.spec.tree, now, starts)
            elif bool((now >= 0).any()):
                place = torch.where(now < 0, rows, self.batch + now)
                state = take_of_both(self.spec.tree, place, state, self.batch, starts, len(segments.row))
            if self.lengths is None:
                output, state = self.spec.step(self.model.network, input, state)
            else:
                real = step < self.lengths.cpu()
                output, new = self.spec.step(self.model.network, _masked(input, real), state)
                place = torch.where(real, self.batch + rows, rows)
                state = take_of_both(self.spec.tree, place, state, self.batch, new, self.batch)
                output = _masked(output, real)
            outputs.append(output)
        return torch.stack(outputs, self.time), state


def _refuse_tracing(name: str) -> None:
    if is_tracing():
        raise ValueError(f"{name}: expected none under torch.jit.trace here, where its values would become constants")


def _takes_lengths(network: nn.Module) -> bool:
    return isinstance(network, nn.RNNBase | FastWeightsRNN)


def _masked(rows: Tensor, real: Tensor) -> Tensor:
    """Zeros where a row has ended: padding may be anything, and 0 times NaN is NaN."""
    return rows.masked_fill(~real.to(rows.device).view(-1, *(1,) * (rows.ndim - 1)), 0)

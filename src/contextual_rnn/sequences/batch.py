"""A batch of sequences of different lengths, with resets in the middle, and run in pieces."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from contextual_rnn._lengths import blocks_of, check_flags, check_lengths, packed_like, snapshot
from contextual_rnn._numbers import check_flag, check_size
from contextual_rnn._torch_internals import is_program, is_tracing
from contextual_rnn.sequences.contexts import Numbers, check_contexts, naming
from contextual_rnn.sequences.model import Model
from contextual_rnn.sequences.padded import real_steps_first, refuse_tracing, turned_back
from contextual_rnn.sequences.running import run_rows, run_segments, takes_packed
from contextual_rnn.sequences.segments import Segments
from contextual_rnn.spec.arguments import Inputs, one_step_of, split_arguments
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.spec.rows import has_none, put_together, take, take_of_all, write_rows
from contextual_rnn.spec.steps import check_input
from contextual_rnn.spec.tree import State


@dataclass(eq=False, slots=True)  # not frozen: with 19 fields one would take seven times as long to make
class Sequences:
    """A padded batch, or a piece of one, and the arguments of `ContextualRNN` on its sequences.

    first and lengths (B,): the real steps of each row; first is None where all begin at 0, lengths where all steps are
    real. resets (B, T), on the CPU: where rows begin anew; T is 1 where flags stand before the whole call; None where
    none is set. resettable: whether there were flags. numbers: where each reset has its context in reset_context.
    begun (B,), on the CPU, of a piece after the first: the rows that had a step before it; None for all.
    """

    model: Model
    spec: StateSpec
    input: Tensor
    batch: int
    context: Any = None
    generator: torch.Generator | None = None
    first: Tensor | None = None
    lengths: Tensor | None = None
    shortest: int | None = None  # of the lengths, where it is known
    resets: Tensor | None = None
    resettable: bool = False
    reset_context: Any = None
    numbers: Numbers | None = None
    begun: Tensor | None = None
    over: bool = False  # whether no row has a step left
    final_state: bool = True  # whether it is wanted
    packed: PackedSequence | None = None
    turned: Tensor | None = None  # the first steps of rows turned around, (B,)
    arguments: Mapping[str, Tensor] = field(default_factory=dict)  # of the network, cut with the input

    @classmethod
    def of(
        cls,
        model: Model,
        input: Tensor | PackedSequence,
        context: Any,
        generator: torch.Generator | None,
        *,
        lengths: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
        reset_context: Any,
        final_state: bool = True,
        pieces: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Sequences:
        """Check the arguments; `pieces` is the argument that has the batch run in pieces, if one has."""
        check_flag("final_state", final_state)
        given = {pieces: pieces, "lengths": lengths, "mask": mask, "reset": reset, "reset_context": reset_context}
        name = next((name for name, argument in given.items() if argument is not None), "final_state")
        if not isinstance(input, Tensor | PackedSequence):
            raise TypeError(f"input: expected a tensor or a PackedSequence, got {type(input).__name__}")
        whole_input, first, spec = None, None, model._spec
        lengths, mask, reset = snapshot(lengths), snapshot(mask), snapshot(reset)
        if isinstance(input, PackedSequence) and name == "reset":
            whole_input = input
            input, lengths = pad_packed_sequence(input, batch_first=spec.input_batch_dim == 0)
        batch = spec.input_batch_size(input) if isinstance(input, Tensor) else None
        before_call = name == "reset" and isinstance(reset, Tensor) and reset.ndim == 1 and whole_input is None
        if isinstance(input, Tensor) and batch is not None and spec.known_time_dim == "unknown" and not before_call:
            spec = model._known_spec(one_step_of(input, spec.input_batch_dim))
        if batch is None or (spec.known_time_dim is None and name not in ("reset", "reset_context")):
            unbatched = f"a packed or unbatched input; input.unsqueeze({spec.input_batch_dim}) gives one a batch axis"
            received = "an input of one step" if batch is not None else unbatched
            raise ValueError(f"{name}: expected only with a padded batch of sequences, got {received}")
        assert isinstance(input, Tensor)
        check_input("input", model.network, input)
        self = cls(model, spec, input, batch, context, generator, packed=whole_input, arguments=arguments or {})
        if self.arguments:
            time = spec.known_time_dim
            inputs = Inputs(input, spec.input_batch_dim, time if isinstance(time, int) else spec.input_batch_dim)
            split_arguments(self.arguments, spec.per_step, spec.per_row, inputs, str(name))
        if pieces is not None and spec.bidirectional:
            raise ValueError(f"{pieces}: expected only with a network of one direction, got a bidirectional one")
        if mask is not None:
            if lengths is not None:
                raise ValueError("mask: expected none beside lengths, which say the same, got both")
            mask = self._rows_first("mask", mask)
            if is_program() and self.num_steps and reset is None and pieces is None:
                inputs, self.turned, lengths = real_steps_first(self.inputs, mask)
                self.input, self.arguments = inputs.tensor, inputs.arguments
            else:
                refuse_tracing("mask")
                first, lengths = blocks_of(mask)
        elif lengths is not None:
            self.shortest = check_lengths(lengths, batch, self.num_steps)
        self.first, self.lengths, self.final_state = first, lengths, final_state
        if reset is None:
            if reset_context is not None:
                raise ValueError("reset_context: expected only with reset, got it alone")
            return self
        self.resets, self.resettable = self._resets(reset, first), True
        if reset_context is not None:
            self.reset_context = reset_context
            self.numbers = Numbers.of(reset, self.spec.known_time_dim, batch_dim=self.spec.input_batch_dim)
            check_contexts("reset_context", reset_context, self.numbers.total)
        return self

    def _rows_first(self, name: str, flags: Tensor) -> Tensor:
        """Flags in the layout of the input as (B, T)."""
        time_first = self.time < self.spec.input_batch_dim
        sizes = {"time": self.num_steps, "batch": self.batch} if time_first else {}
        check_flags(name, flags, sizes or {"batch": self.batch, "time": self.num_steps})
        return flags.T if time_first else flags

    def _resets(self, reset: Tensor, first: Tensor | None) -> Tensor | None:
        """`resets` of rows that begin at `first`."""
        time, before_call = self.spec.known_time_dim, isinstance(reset, Tensor) and reset.ndim == 1
        # An input of any axes may be one step or a sequence: flags (B,) then apply before the call.
        if isinstance(time, int) and not (before_call and self.spec.input_ndim is None):
            flags = self._rows_first("reset", reset).cpu()
        else:
            check_flags("reset", reset, {"batch": self.batch})
            flags = reset[:, None].cpu()
        if not is_tracing() and not flags.any():
            return None
        if not before_call or not isinstance(time, int):
            return flags
        first = torch.zeros(self.batch, dtype=torch.int64, device="cpu") if first is None else first.cpu()
        return flags & (torch.arange(self.num_steps, device="cpu") == first[:, None])

    @property
    def time(self) -> int:
        assert isinstance(self.spec.known_time_dim, int)
        return self.spec.known_time_dim

    @property
    def num_steps(self) -> int:
        return self.input.shape[self.time]

    @property
    def inputs(self) -> Inputs:
        return Inputs.of(self.input, self.spec.input_batch_dim, self.time, self.arguments, self.spec.per_step)

    def steps(self, start: int, stop: int) -> Sequences:
        """The piece from step `start` to before `stop`."""
        first, lengths, begun, over = self.first, self.lengths, None, False
        if lengths is not None:
            refuse_tracing("lengths")
            first = torch.zeros_like(lengths) if first is None else first
            end = first + lengths
            if start > 0:
                begun = ((first < start) & (lengths > 0)).cpu()
                if not torch.compiler.is_compiling():  # values cannot be read there
                    begun, over = None if bool(begun.all()) else begun, not bool((end > start).any())
            first = (first - start).clamp(0, stop - start)
            lengths = (end - start).clamp(0, stop - start) - first
            first = None if self.first is None or not bool(first.any()) else first
        piece = self.inputs.steps(start, stop - start)
        return replace(
            self,
            input=piece.tensor,
            arguments=piece.arguments,
            first=first,
            lengths=lengths,
            shortest=None,
            begun=begun,
            over=over,
            resets=None if self.resets is None else self.resets[:, start:stop],
            numbers=None if self.numbers is None else self.numbers.steps(start, stop),
        )

    def split(self, name: str, step: int) -> tuple[Sequences, Sequences]:
        """The pieces before and from `step`, which is the argument `name`."""
        step = check_size(name, step)
        if step >= self.num_steps:
            raise ValueError(f"{name}: expected fewer steps than the input's {self.num_steps}, got {step}")
        after = self.steps(step, self.num_steps)
        if after.over:
            raise ValueError(f"{name}: expected fewer steps than the longest sequence has, got {step}")
        return replace(self.steps(0, step), final_state=True), after

    def run(self, hx: State | None, *, carried: State | None = None, carry: bool = False) -> Any:
        """Output and final state, from `hx` or the initial state.

        `carried` is the state after the piece before, for the rows that had begun. With `carry` the final state is
        whole, A of fast weights included. It is None where it is not wanted.
        """
        returned = self._run(hx, carried, carry)
        if self.packed is None and self.turned is None and self.final_state:
            return returned
        output, state = returned
        if self.turned is not None:
            output = turned_back(Inputs(output, self.spec.input_batch_dim, self.time), self.turned)
        output = output if self.packed is None else packed_like(self.packed, output, self.time)
        return output, state if self.final_state else None

    def _run(self, hx: State | None, carried: State | None, carry: bool) -> Any:
        network, one_source = self.model.network, self.begun is None or torch.compiler.is_compiling()
        in_one_call = self.first is None and self._pads_itself
        if carry and self.spec.step is not None and has_none(self.spec.tree):
            in_one_call = in_one_call and takes_packed(network)  # else its own step carries all of the state
        no_step = isinstance(self.spec.known_time_dim, int) and not is_tracing() and not self.num_steps
        if not no_step and (not self.batch or (one_source and in_one_call and self._is_whole)):
            return self._whole_rows(self._begun(hx, carried), carry)
        refuse_tracing("lengths" if self.resets is None else "reset")
        if (resets := self.resets) is None:
            resets = torch.zeros(self.batch, self.num_steps, dtype=torch.bool, device="cpu")
        lengths = None if self.lengths is None else self.lengths.cpu().long()
        segments = Segments.between(resets, None if self.first is None else self.first.cpu(), lengths)
        starts = self._starts(hx, carried, segments)
        if len(segments.row) == self.batch and in_one_call and resets.shape[1]:
            return self._whole_rows(starts, carry)
        return run_segments(network, self.spec, self.inputs, segments, starts, carry, self.model.backend)

    @property
    def _is_whole(self) -> bool:
        """Whether no row begins anew after its first step, and those that do at it have the contexts of the rows."""
        if self.resets is None:
            return True
        return self.resets.shape[1] == 1 and self.lengths is None and self.reset_context is None

    def _begun(self, hx: State | None, carried: State | None) -> State:
        """`carried`, before that `hx` or the initial state, which rows have that begin anew before their first step."""
        if self.begun is not None:  # in a program, where no value may decide what runs
            place = torch.where(self.begun, 0, self.batch) + torch.arange(self.batch, device="cpu")
            states = [carried, replace(self, begun=None)._begun(hx, None)]
            return take_of_all(self.spec.tree, place, states, [self.batch, self.batch])
        state = hx if carried is None else carried
        if state is None:
            return self.model._start(self.context, self.batch, self.generator)
        # Also where nothing is reset: DDP refuses parameters that only some calls use.
        takes_part = self.resettable and self.reset_context is None and torch.is_grad_enabled()
        if self.resets is None and not takes_part:
            return state
        rows = (torch.zeros(0, 1, device="cpu") if self.resets is None else self.resets)[:, 0].nonzero()[:, 0]
        new = self.model._start(self.context, self.batch, self.generator, rows)
        return write_rows(self.spec.tree, state, rows, new, self.batch)

    @property
    def _pads_itself(self) -> bool:
        """Whether one call of the network can be given the lengths, if there are any."""
        if self.lengths is None:
            return True
        return takes_packed(self.model.network) and (is_program() or bool(self.shortest or self.lengths.all()))

    def _whole_rows(self, state: State, carry: bool) -> Any:
        """Every row is one sequence."""
        given = self.input, self.lengths, state, self.model.backend, self.arguments
        return run_rows(self.model.network, self.spec, *given, carry=carry, final_state=self.final_state)

    def _starts(self, hx: State | None, carried: State | None, segments: Segments) -> State:
        """The state that each segment starts from."""
        make, rows, given = self.model._start, segments.row, hx if carried is None else carried
        if given is None and (self.reset_context is None or not self.batch):
            return make(self.context, self.batch, self.generator, rows)
        if given is not None and not self.batch:
            return given
        anew = segments.where(self.resets)
        begun = torch.full((self.batch,), carried is not None, device="cpu") if self.begun is None else self.begun
        goes_on = begun[rows] & ~anew
        fresh = ~anew & ~goes_on
        from_context = (fresh & (hx is None)) | (anew & (self.reset_context is None))
        sources: list[tuple[Tensor, State]] = []

        def add(chosen: Tensor, state: State) -> None:
            sources.append((chosen.nonzero()[:, 0], state))

        if bool(goes_on.any()):
            add(goes_on, take(self.spec.tree, rows[goes_on], carried))
        if hx is not None and bool(fresh.any()):
            add(fresh, take(self.spec.tree, rows[fresh], hx))
        # Also where nothing is reset: DDP refuses parameters that only some calls use.
        if bool(from_context.any()) or (self.resettable and self.reset_context is None):
            add(from_context, make(self.context, self.batch, self.generator, rows[from_context]))
        if self.resets is not None and self.numbers is not None:
            with naming("reset_context", self.reset_context, self.numbers.total):
                numbers = self.numbers.at(rows[anew], segments.start[anew])
                state = make(self.reset_context, self.numbers.total, self.generator, numbers)
            add(anew, state)
        return put_together(self.spec.tree, sources)

"""A network run one step a call, with its state in memory."""

# The names of a model that users do not see.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from contextual_rnn._lengths import check_flags
from contextual_rnn._sharded import as_forward
from contextual_rnn._tensors import check_dense, described
from contextual_rnn._torch_internals import increment_version, not_compiled
from contextual_rnn.ops.native.memory import LOW
from contextual_rnn.ops.native.stream import Steps
from contextual_rnn.sequences.backend import choose, weights_of
from contextual_rnn.sequences.contexts import check_contexts, naming
from contextual_rnn.sequences.model import Model
from contextual_rnn.sequences.stream_kernels import KERNELS, serves, whole_state
from contextual_rnn.sequences.stream_memory import (
    IS_FLAGS,
    IS_OF,
    can_receive,
    check_not_wrapped,
    copy_in,
    copy_into,
    memory_like,
    own_copy,
)
from contextual_rnn.sequences.stream_starts import Starts
from contextual_rnn.spec.arguments import merged
from contextual_rnn.spec.rows import map_tensors, tensors_of, write_rows
from contextual_rnn.spec.steps import check_step, step_of
from contextual_rnn.spec.tree import State


class Stream:
    """The steps of a model, made by `ContextualRNN.stream`, which has the arguments.

        o(t), h(t) = network(x(t), h(t-1))

    `backend` is "native" where the kernel takes the steps, else "torch". `start` are the initial states for `context`,
    where they are known already.
    """

    def __init__(
        self,
        model: Model,
        context: Any,
        batch_size: int,
        state: State | None,
        generator: torch.Generator | None,
        start: State | None = None,
    ):
        network = model.network
        if model._spec.bidirectional:
            kind = type(network).__name__
            raise ValueError(f"network: expected one direction to stream, got a bidirectional {kind}")
        self.batch_size = batch_size
        self._model, self._starts = model, Starts(model, context, batch_size, generator)
        self._spec, self._fixed, self._start_is_current = model._spec, _is_fixed(model), False
        self._start: State | None = None
        self._output: Tensor | None = None
        self._input: Tensor | None = None  # memory for what the kernel cannot read in place
        with torch.inference_mode(False):
            self._flags = torch.zeros(batch_size, dtype=torch.bool, device="cpu")
        if state is None:
            rows = torch.arange(batch_size, device="cpu")
            self._start = state = self._initial(self._starts, rows) if start is None else start
            self._start_is_current = self._fixed
        self._begin(state, self._start)

    @property
    def backend(self) -> str:
        return "torch" if self._native is None else "native"

    @not_compiled
    def __call__(
        self,
        input: Tensor,
        reset: Tensor | None = None,
        reset_context: Any = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """One step: input (B, ...) to the output (B, ...), which is the same tensor at every step.

        The next step overwrites it; `.clone()` keeps it. Rows where `reset`, (B,) of bool, is True begin anew before
        the step, as by `reset(rows, context)`. `arguments` are those of a network that takes more, for this step.

        Raises ValueError or TypeError for inputs and flags of another shape, dtype or device.
        """
        if self._native is None:
            return self._step_in_torch(input, reset, reset_context, arguments)
        steps, shape, is_of_dtype, output, place, shape_of_output, below, end, same = self._native
        if output.data_ptr() != place or output.shape != shape_of_output or not output.is_contiguous():  # moved, turned
            self._begin(self.state, self._start)
            return self(input, reset, reset_context, arguments)
        address = anew = 0
        try:  # what is asked here is most of what a step takes in Python
            if type(input) is Tensor and is_of_dtype(input) and input.shape == shape and input.is_contiguous():
                address = input.data_ptr()
            if type(reset) is Tensor and IS_FLAGS(reset) and reset.ndim == 1 and reset.is_contiguous():
                anew = reset.data_ptr() if reset.nbytes == self.batch_size else 0
        except RuntimeError:  # tensors of torch.func have no memory
            pass
        if address <= LOW or (below < address < end and address != same):
            address = self._address_of_copy(input)
        in_place = reset is None or (anew > LOW and self._start_is_current)
        if not in_place or reset_context is not None or arguments is not None:
            anew = self._address_of_flags(reset, reset_context, arguments)
        steps.run(steps.problem, address, anew)
        increment_version((output,))  # autograd then refuses an output that it needs and that has been overwritten
        return output

    @property
    def state(self) -> State:
        """A copy of the state, as the network takes it; of fast weights with A. Set, it is copied."""
        return map_tensors(Tensor.clone, self._state)

    @state.setter
    def state(self, state: State) -> None:
        self._model._check_state(state, self.batch_size)
        with torch.no_grad():
            self._state = self._stored(self._state, state)

    @torch.no_grad()
    @not_compiled
    def reset(self, rows: Tensor | None = None, context: Any = None) -> None:
        """Begin rows anew from their initial state: all, or those where `rows`, (B,) of bool, is True.

        `context` has new contexts for these rows, in their order, which they have from here on. In training the initial
        states are made anew at each reset, since random ones are drawn; in evaluation, once for each context.

        Raises TypeError or ValueError for other flags, and for contexts as `ContextualRNN` does.
        """
        if rows is None:
            rows = torch.ones(self.batch_size, dtype=torch.bool, device="cpu")
        self._reset("context", rows, context)

    def _reset(self, name: str, rows: Tensor, context: Any) -> None:
        """`reset`, whose `context` is the argument `name`."""
        check_flags("reset", rows, {"batch": self.batch_size})
        self._renew_starts(name, rows, context)
        if self._start is not None:  # else there was no row
            self._state = self._stored(self._state, self._spec.where(rows, self._start, self._state))

    @torch.no_grad()
    @not_compiled
    def read_weights(self) -> None:
        """Read the weights of the model once more, after a step of training, and whether it is in training.

        The state goes on; initial states are made anew when they are needed.
        """
        state = self.state
        if type(self._model.network) in KERNELS:  # the state goes on in the dtype and on the device that it has now
            like = weights_of(self._model.network)[0]
            state = map_tensors(lambda tensor: tensor.to(like), state)
        self._begin(state, None)
        self._fixed, self._start_is_current = _is_fixed(self._model), False

    def __reduce__(self) -> NoReturn:
        raise TypeError("stream: expected a new one, made by stream() of the model, got one to copy or pickle")

    def _begin(self, state: State, start: State | None) -> None:
        """Choose what takes the steps, which go on from `state`; what is refused leaves all as it was."""
        network: Any = self._model.network
        backend = choose(self._model.backend, network, tensors_of(state), kinds=KERNELS)
        native: _Native | None = None
        if backend != "native" or not serves(network):
            state, output = map_tensors(own_copy, state), self._output
        else:
            # C writes to memory of the stream's own, which is as large whatever `start` holds now.
            start = memory_like(whole_state(network, state if start is None else start))
            state, output = memory_like(whole_state(network, state)), self._output
            h = tensors_of(state)[0]
            if output is None or not can_receive(output, h, self.batch_size, h.shape[-1:]):
                with torch.inference_mode(False):
                    output = h.new_zeros(self.batch_size, h.shape[-1])
            steps = KERNELS[type(network)](network, state, start, output)
            native = _Native.of(steps, torch.Size((self.batch_size, network.input_size)), output)
        self._state, self._start, self._output, self._input, self._native = state, start, output, None, native

    def _initial(self, starts: Starts, rows: Tensor) -> State:
        with torch.no_grad():
            return as_forward(self._model, starts.of)(rows)  # pyright: ignore[reportArgumentType]

    def _renew_starts(self, name: str, flags: Tensor, context: Any) -> None:
        """Have the initial states of the rows at hand that begin anew; `context` is the argument `name`.

        What refuses a context leaves all as it was.
        """
        if context is None and self._start_is_current:
            return
        rows, starts = flags.cpu().nonzero()[:, 0], self._starts
        num_resets = len(rows)
        if context is not None:
            check_contexts(name, context, num_resets)
            starts = starts.given(rows, context)
        if self._fixed and not self._start_is_current:
            rows = torch.cat([rows, starts.known]).unique()
        if len(rows):
            with naming(name, context, num_resets):
                new = self._initial(starts, rows)
            if len(rows) < self.batch_size:
                others = self._state if self._start is None else self._start  # which nobody reads
                new = write_rows(self._spec.tree, others, rows, new, self.batch_size)
            self._start = self._stored(self._start, new)
        self._starts = starts
        self._start_is_current = self._fixed and (self._start_is_current or len(rows) == self.batch_size)

    def _stored(self, memory: State, state: State) -> State:
        """`state`, in the memory that the kernel reads where there is one."""
        if self._native is None:
            return map_tensors(own_copy, state)
        copy_into(memory, whole_state(self._model.network, state))
        return memory

    def _address_of_flags(self, reset: Any, context: Any, arguments: Mapping[str, Any] | None) -> int:
        if arguments is not None:
            raise ValueError(f"arguments: expected none for the network, got {', '.join(merged(arguments, {}))}")
        if reset is None:
            raise ValueError("reset_context: expected only with reset, got it alone")
        check_flags("reset", reset, {"batch": self.batch_size})
        if context is not None or not self._start_is_current:
            with torch.no_grad():
                self._renew_starts("reset_context", reset, context)
        return copy_in("reset", self._flags, reset)

    def _address_of_copy(self, input: Tensor) -> int:
        """The input in memory of the stream's own, checked."""
        assert self._native is not None
        check_dense("input", input)
        shape, dtype = self._native.shape, self._native.output.dtype
        if input.shape != shape or input.dtype != dtype or not input.is_cpu:
            raise ValueError(f"input: expected {dtype} of shape {tuple(shape)} on cpu, got {described(input)}")
        with torch.inference_mode(False), torch.no_grad():
            if self._input is None:
                self._input = torch.empty(shape, dtype=dtype, device="cpu")
        return copy_in("input", self._input, input)

    @torch.no_grad()
    def _step_in_torch(
        self, input: Tensor, reset: Tensor | None, reset_context: Any, arguments: Mapping[str, Any] | None
    ) -> Tensor:
        network: Any = self._model.network
        check_step("input", network, self._spec, input)
        check_not_wrapped("input", input)
        if self._spec.known_time_dim == "unknown" and self._spec.step is None:
            self._spec = self._model._known_spec(input)
        width = (network.input_size,) if type(network) in KERNELS else tuple(input.shape[1:])
        if tuple(input.shape) != (self.batch_size, *width):
            raise ValueError(f"input: expected shape {(self.batch_size, *width)}, got {tuple(input.shape)}")
        run = as_forward(self._model, step_of)  # pyright: ignore[reportArgumentType]
        before = self._state, self._start, self._starts, self._start_is_current
        try:
            if reset is not None:
                self._reset("reset_context", reset, reset_context)
            elif reset_context is not None:
                raise ValueError("reset_context: expected only with reset, got it alone")
            output, self._state = run(network, self._spec, input.detach(), self._state, **merged(arguments, {}))
        except BaseException:  # of a network that refuses the input or an argument itself
            self._state, self._start, self._starts, self._start_is_current = before
            raise
        if self._output is None or not can_receive(self._output, output, self.batch_size, output.shape[1:]):
            self._output = own_copy(output)
        return self._output.copy_(output)


class _Native(NamedTuple):
    """The kernel's steps, what their input must be, and their output with its address and shape.

    An input that begins between `below` and `end` lies where the output does and is copied. Not at `same`, the output
    itself as the input: rows are read before they are written.
    """

    steps: Steps
    shape: torch.Size
    is_of_dtype: Callable[[object], bool]
    output: Tensor
    place: int
    shape_of_output: torch.Size
    below: int
    end: int
    same: int

    @classmethod
    def of(cls, steps: Steps, shape: torch.Size, output: Tensor) -> _Native:
        place, size = output.data_ptr(), output.element_size()
        below, end = place - shape.numel() * size, place + output.numel() * size
        same = place if shape == output.shape else 0
        return cls(steps, shape, IS_OF[output.dtype], output, place, output.shape, below, end, same)


def _is_fixed(model: Model) -> bool:
    """Whether the initial state for a context is the same each time: in evaluation."""
    return not any(module.training for module in model.initial_state.modules())

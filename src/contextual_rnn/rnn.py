"""A network and its initial state as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from contextual_rnn._lengths import packed_batch_size
from contextual_rnn._numbers import check_flag, check_size
from contextual_rnn._sharded import set_around
from contextual_rnn._tensors import first_parameter
from contextual_rnn._torch_internals import not_compiled
from contextual_rnn.sequences.backend import SequenceBackend, check_backend
from contextual_rnn.sequences.batch import Sequences
from contextual_rnn.sequences.fast_weights import check_cut
from contextual_rnn.sequences.program import check_sequences, run_sequences
from contextual_rnn.sequences.stream import Stream
from contextual_rnn.sequences.stream_starts import start_of_contexts
from contextual_rnn.spec.arguments import check_uncut, merged, repeated_arguments
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.networks import StateSpec, spec_of, state_spec
from contextual_rnn.spec.place import check_like
from contextual_rnn.spec.rows import check_open_parts
from contextual_rnn.spec.steps import call, check_input, copied, find_time_dim, may_change_states
from contextual_rnn.spec.tree import State, fits, matches
from contextual_rnn.states import InitialState, Posterior

_OURS = ("native", "reference")


class ContextualRNN(nn.Module):
    """A recurrent network that starts from `initial_state` instead of zeros.

    Returns exactly what the network returns.

    `backend` says what runs nn.RNN, nn.LSTM and nn.GRU: "torch"; "native", our kernel for sequences of any lengths on
    a CPU, differentiable once, which takes subnormal numbers as zeros; "reference", the equations step by step in plain
    PyTorch; or "auto": torch, but native wherever lengths, masks, resets, burn-in or truncation are given, the batch is
    not tiny and it can serve: not on a GPU, without a compiler at install, for subclasses, under autocast and
    torch.export, nor for a network that has hooks, parametrizations or sharded weights. The environment variable
    CONTEXTUAL_RNN_SEQUENCES_BACKEND names what auto is.

    Raises TypeError for a network without a registered spec or an initial state that is none, ValueError for an initial
    state made for another network and a backend that there is not, or not for this network.
    """

    backend: SequenceBackend = "auto"  # of models that were pickled without one

    def __init__(self, network: nn.Module, initial_state: InitialState, backend: SequenceBackend = "auto"):
        super().__init__()
        spec = spec_of(network)
        if not isinstance(network, nn.Module):
            raise TypeError(f"network: expected a module, got {type(network).__name__}")
        if not isinstance(initial_state, InitialState):
            raise TypeError(f"initial_state: expected an InitialState, got {type(initial_state).__name__}")
        if not fits(spec.tree, initial_state.spec.tree):
            raise ValueError(
                f"initial_state: expected one for {spec.describe()}, got one for {initial_state.spec.describe()}"
            )
        check_backend(backend, network)
        self.backend = backend
        self._spec = spec
        self._found_spec: StateSpec | None = None
        self._copies_states = may_change_states(network)
        self.network = network
        self.initial_state = initial_state
        set_around(initial_state, self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        set_around(self.initial_state, self)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        context: Any = None,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        reset_context: Any = None,
        burn_in: int = 0,
        generator: torch.Generator | None = None,
        arguments: Mapping[str, Any] | None = None,
        num_samples: int | None = None,
        return_posterior: bool = False,
        final_state: bool = True,
        **more: Any,
    ) -> Any:
        """Run the network from `hx` where given, else from the initial state for `context`.

        `input` is what the network takes, a PackedSequence included; contexts stand in the order of the sequences as
        they were before packing. `generator` makes a random initial state repeatable. Further keyword arguments are
        passed to the network; `arguments` holds those that have one of the names here. Beside lengths, masks, resets
        and burn-in those that the spec names in `per_step` or `per_row` are cut with the input, and others are refused.

        `lengths`, (B,) integers from 0 on any device and in any order, say how long each sequence of a padded batch is;
        or `mask`, of bool, is True for the real steps, one block in each row. Outputs elsewhere are zero and the final
        state is that of the last real step, or what the row starts from where there is none. `reset`, of bool, begins a
        row anew before a step where it is True: from the initial state for the row's context, with a draw of its own,
        or for `reset_context`, which has a context for each True, in the order of `contexts[reset]`. Every piece
        between resets is a sequence of its own, and the final state is that of the last. Masks and resets have the
        layout of the input: (B, T), or (T, B) where time comes first. A cell takes a `reset` of (B,), before its step.
        The first `burn_in` steps run without gradients, and the outputs are those of the steps after.
        With `final_state` False the network's state is None in the result, so that torch's LSTM and networks of several
        layers need no packing for `lengths` where torch runs them.

        With `num_samples` each row runs from that many draws of the initial state, in evaluation too, which one pass of
        the context network gives: row b * num_samples + s is sample s of row b. With `return_posterior` the result is
        what the network returns, and the `Posterior` that the states were drawn from: for its KL, under DDP and FSDP
        too. Neither goes with `hx` or resets, and num_samples not with a packed or unbatched input.

        Raises ValueError or TypeError for an input of other axes, a context or state that does not fit it, bad lengths,
        masks, resets and burn-ins, further arguments beside these, and an initial state whose dtype or device is not
        the network's: with every call, as modules may be moved.
        """
        burn_in = burn_in if type(burn_in) is int and burn_in >= 0 else check_size("burn_in", burn_in, 0)
        if num_samples is not None or return_posterior is not False:
            arguments, alone = merged(arguments, more), {"hx": hx, "reset": reset, "reset_context": reset_context}
            self._check_beside_draws(input, num_samples, return_posterior, alone)
            if lengths is not None or mask is not None or burn_in or final_state is not True:
                given = {"lengths": lengths, "mask": mask, "reset": None, "reset_context": None}
                given |= {"final_state": final_state, "arguments": arguments}
                check_sequences(self, (input, context, generator), given, burn_in)
            hx, posterior = self._drawn(input, context, generator, num_samples, return_posterior)
            if num_samples is not None and not isinstance(input, PackedSequence):
                input, lengths, mask = self._repeated(num_samples, input, lengths, mask)
                arguments = repeated_arguments(self._spec, arguments, num_samples)
            options: dict[str, Any] = {"lengths": lengths, "mask": mask, "burn_in": burn_in, "arguments": arguments}
            returned = ContextualRNN.forward(self, input, hx, final_state=final_state, **options)
            return (returned, posterior) if return_posterior else returned
        packed = isinstance(input, PackedSequence)
        if packed and self._spec.known_time_dim is None:
            raise TypeError("input: expected a tensor of one step, as the network is a cell, got PackedSequence")
        batch_size = packed_batch_size(input) if packed else self._spec.input_batch_size(input)
        network = self.network  # looking up an attribute of a module is slow
        fits_at_once = hx is None or matches(self._spec.tree, hx, batch_size, first_parameter(network))
        if hx is not None and (self._spec.bounded or not fits_at_once):
            self._check_state(hx, batch_size)
        plain = lengths is None and mask is None and reset is None and reset_context is None and burn_in == 0
        if plain and final_state is True:
            arguments = merged(arguments, more)  # what is refused draws no state
            if self.backend in _OURS:
                self._check_dense(input, batch_size, arguments)
            elif arguments and batch_size is not None and isinstance(input, Tensor):
                check_uncut(arguments, self._spec, input)
            state = self._start(context, batch_size, generator) if hx is None else hx
            if self.backend in _OURS:
                return Sequences(self, self._spec, input, batch_size).run(state)  # pyright: ignore[reportArgumentType]
            if self._copies_states:
                state = copied(state)
            if not arguments and self._spec.call is None:
                return network(input, state)
            return call(network, self._spec, input, state, **arguments)
        check_cut(network, self._spec, hx, batch_size)
        given: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset, "reset_context": reset_context}
        given |= {"final_state": final_state, "arguments": merged(arguments, more)}
        return run_sequences(self, (input, context, generator), given, hx, burn_in)

    @not_compiled
    def stream(
        self,
        context: Any = None,
        batch_size: int | None = None,
        hx: State | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Stream:
        """Run the network one step a call, for real time: the state stays in memory, and nothing has a gradient.

            stream = model.stream(context)
            output = stream(x_t)                # (B, ...) to (B, ...), overwritten by the next step
            output = stream(x_t, reset=done)    # rows that are done begin anew before the step

        It starts from `hx` where given, else from the initial states, as `forward` does. `batch_size` is needed where
        neither says it. On a CPU a native kernel takes the steps of nn.RNN, nn.LSTM, nn.GRU, their cells and fast
        weights without allocating memory, from the weights as they are now; `read_weights` reads them again. Other
        networks, and those that the kernel cannot serve (see `ContextualRNN`), take torch's own steps.

        Raises ValueError for a bidirectional network, and ValueError or TypeError for a context, a state or a batch
        size that do not fit.
        """
        start = None
        if hx is not None and batch_size is None:
            batch_size = next(iter(self._spec.check(hx, "hx").values())).shape[0]
        elif batch_size is None:
            start, batch_size = start_of_contexts(self, context, generator)
        batch_size = check_size("batch_size", batch_size, 0)
        if hx is not None:
            self._check_state(hx, batch_size)
        return Stream(self, context, batch_size, hx, generator, start)

    def _check_dense(
        self, input: Tensor | PackedSequence, batch_size: int | None, arguments: Mapping[str, Any]
    ) -> None:
        """Refuse a plain call that is not for the backend asked for."""
        if arguments:
            names = ", ".join(arguments)
            raise ValueError(f"arguments: expected none for the network with backend {self.backend!r}, got {names}")
        if isinstance(input, PackedSequence) or batch_size is None:
            raise ValueError(f"input: expected a padded batch for {self.backend!r}, got a packed or unbatched input")
        check_input("input", self.network, input)

    def _start(
        self,
        context: Any,
        batch_size: int | None,
        generator: torch.Generator | None,
        rows: Tensor | None = None,
        *,
        by_context: bool = False,
    ) -> State:
        """The initial state, checked; only for some `rows` of the batch where they are given.

        Without a batch size it is that of one example, or of as many as the context has, `by_context`.
        """
        some = {} if rows is None else {"rows": rows}
        batched = None if by_context else batch_size is not None
        state = self.initial_state(context, batch_size, batched=batched, generator=generator, **some)
        check_made(self.network, self.initial_state, state)
        return state

    def _drawn(
        self,
        input: Tensor | PackedSequence,
        context: Any,
        generator: torch.Generator | None,
        num_samples: int | None,
        return_posterior: bool,
    ) -> tuple[State, Posterior | None]:
        """The states to run from, and their distribution where it is returned."""
        size = packed_batch_size(input) if isinstance(input, PackedSequence) else self._spec.input_batch_size(input)
        options: dict[str, Any] = {"num_samples": num_samples, "return_posterior": return_posterior}
        drawn = self.initial_state(context, size, batched=size is not None, generator=generator, **options)
        state, posterior = drawn if return_posterior else (drawn, None)
        check_made(self.network, self.initial_state, state)
        return state, posterior

    def _check_beside_draws(
        self,
        input: Tensor | PackedSequence,
        num_samples: int | None,
        return_posterior: bool,
        alone: Mapping[str, Any],
    ) -> None:
        """Refuse what does not go with several draws of a row or with a posterior."""
        for name, argument in alone.items():
            if argument is not None:
                raise ValueError(f"{name}: expected None beside num_samples and return_posterior, got one")
        check_flag("return_posterior", return_posterior)
        packed = isinstance(input, PackedSequence)
        if num_samples is not None and (packed or self._spec.input_batch_size(input) is None):
            raise ValueError(f"num_samples: expected None with a packed or unbatched input, got {num_samples}")

    def _repeated(
        self, copies: int, input: Tensor, lengths: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Input, lengths and mask with each row `copies` times; those that are no tensors are refused later."""
        time, batch = self._spec.known_time_dim, self._spec.input_batch_dim
        of_flags = 1 if isinstance(time, int) and time < batch else 0
        lengths = lengths.repeat_interleave(copies, 0) if isinstance(lengths, Tensor) else lengths
        if isinstance(mask, Tensor) and mask.ndim > of_flags:
            mask = mask.repeat_interleave(copies, of_flags)
        return input.repeat_interleave(copies, batch), lengths, mask

    def _known_spec(self, step: Any) -> StateSpec:
        """The spec with what `find_time_dim` learns of the network, once; `step` is an input of one step, (B, ...)."""
        spec = self._found_spec
        if spec is None:
            spec = self._found_spec = find_time_dim(self.network, self._spec, step)
        return spec

    def _check_state(self, state: State, batch_size: int | None) -> None:
        try:
            leaves = self._spec.check(state, "hx")  # layers may differ: a network's final state has no shared ones
        except (TypeError, ValueError) as error:
            if self.initial_state.reads_context:
                raise type(error)(f"{error} (a context is given as context=...)") from None
            raise
        for leaf in self._spec:
            if (size := rows_of(leaf, leaves[leaf.name])) != batch_size:
                raise ValueError(f"hx: expected {leaf.name!r} of batch size {batch_size}, as the input, got {size}")
        check_open_parts("hx", self._spec.tree, state)
        check_like("hx", self.network, self._spec.tree, state)
        self._spec.check_domains(leaves, "hx", wait=False)


def check_made(network: nn.Module, initial_state: InitialState, state: State) -> None:
    """Refuse what an initial state made if its dtype or device is not the network's."""
    check_like("initial_state", network, initial_state.spec.tree, state)


@state_spec.register
def _(network: ContextualRNN) -> StateSpec:
    return state_spec(network.network)

"""How a network is called for one step or for a sequence, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._autocast import autocast_joins
from contextual_rnn._sharded import casts_inputs
from contextual_rnn._tensors import check_dense, described, first_parameter
from contextual_rnn._torch_internals import untraced
from contextual_rnn.spec.arguments import Inputs, split_arguments
from contextual_rnn.spec.place import dtype_and_device
from contextual_rnn.spec.rows import map_tensors
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.tree import State, describe_state, leaves_of, matches

_SEQUENCES: set[Callable[..., Any]] = {kind.forward for kind in (nn.RNN, nn.LSTM, nn.GRU)}
# Forward methods that leave the given state as it was; ours join in fast_weights.py.
LEAVE_STATES_ALONE: set[Callable[..., Any]] = _SEQUENCES | {
    kind.forward for kind in (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
}


def runs_as_torch_does(network: nn.Module) -> bool:
    """Whether `network` is nn.RNN, nn.LSTM or nn.GRU, or a subclass that has their forward method."""
    return type(network).forward in _SEQUENCES and "forward" not in network.__dict__


def may_change_states(network: nn.Module) -> bool:
    """Whether `network` may overwrite the state that it is given."""
    return type(network).forward not in LEAVE_STATES_ALONE or "forward" in network.__dict__


def copied(state: State) -> State:
    """A copy of a state, through which gradients flow."""
    return map_tensors(Tensor.clone, state)


def check_input(name: str, network: nn.Module, inputs: Tensor) -> None:
    """Refuse an input of another device, dtype or number of features than torch's networks and ours compute in.

    Other networks take what they take.
    """
    if may_change_states(network):
        return
    parameter, size = first_parameter(network), getattr(network, "input_size", None)
    if size is not None and inputs.shape[-1:] != (size,):
        raise ValueError(f"{name}: expected inputs of width {size} for the network, got {described(inputs)}")
    if parameter is None or (inputs.dtype == parameter.dtype and inputs.device == parameter.device):
        return
    joined = inputs.device == parameter.device and autocast_joins(inputs.dtype, parameter.dtype, inputs.device)
    if not joined and not casts_inputs(network, parameter):
        expected, received = (f"{tensor.dtype} on {tensor.device}" for tensor in (parameter, inputs))
        raise ValueError(f"{name}: expected {expected}, as the network, got {received}")


def check_step(name: str, network: nn.Module, spec: StateSpec, inputs: Any, rows: int | None = None) -> None:
    """Refuse inputs of one step that the network cannot take; with `rows`, also those of other rows."""
    check_dense(name, inputs)
    if spec.input_ndim is not None:
        axes = spec.input_ndim if spec.known_time_dim is None else spec.input_ndim - 1
        if inputs.ndim != axes:
            raise ValueError(f"{name}: expected {axes} axes for one step of the network, got {described(inputs)}")
    check_input(name, network, inputs)
    if rows is not None and inputs.shape[:1] != (rows,):
        raise ValueError(f"{name}: expected inputs of {rows} rows for the network, got {described(inputs)}")


def own_copy(network: nn.Module, state: State) -> State:
    """`state`, or a copy where the network may overwrite it."""
    return copied(state) if may_change_states(network) else state


def take_step(network: nn.Module, spec: StateSpec, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """Run `network` for one step: inputs (B, ...) and a state to the output (B, ...) and the next state.

    Raises ValueError for a bidirectional network and where it is unknown whether the network takes sequences,
    TypeError where the network returns something else than (output, state) or a state, either for inputs and a state
    that do not fit.
    """
    try:
        return step_of(network, spec, inputs, state)
    except (RuntimeError, IndexError, TypeError, AttributeError):
        check_step("inputs", network, spec, inputs)
        received = spec.check(state, "state")
        for leaf in spec:
            if spec.dtype_of(leaf) not in (None, dtype := received[leaf.name].dtype):
                expected = spec.dtype_of(leaf)
                raise ValueError(f"state: expected leaf {leaf.name!r} of {expected}, got {dtype}") from None
        raise


def call(network: nn.Module, spec: StateSpec, inputs: Any, state: State, /, **arguments: Any) -> Any:
    """One call of a network, whatever its signature is and its arguments are called; the state may be overwritten."""
    if spec.call is None:
        return network(inputs, state, **arguments)
    if spec.call != "steps":
        return spec.call(network, inputs, state, **arguments)
    time, batch = spec.known_time_dim, spec.input_batch_dim
    assert isinstance(time, int)
    if not isinstance(inputs, Tensor) or inputs.ndim <= max(time, batch) or not inputs.shape[time]:
        raise ValueError(
            f"input: expected a batch in axis {batch} of at least one step in axis {time}, as the network is run step "
            f"by step, got {described(inputs)}"
        )
    whole = Inputs(inputs, batch, time)
    whole = split_arguments(arguments, spec.per_step, spec.per_row, whole, "a network that is run step by step")
    place, outputs = batch - 1 if time < batch else batch, []
    for piece in whole.split([1] * inputs.shape[time]):
        step = piece.step(0)
        output, state = step_of(network, spec, step.tensor, state, **step.arguments)
        outputs.append(output.movedim(0, place))
    return torch.stack(outputs, time), state


def step_of(
    network: nn.Module, spec: StateSpec, inputs: Tensor, state: State, /, **arguments: Any
) -> tuple[Tensor, State]:
    """As `take_step`, without a look at the inputs and the state where a step has failed."""
    if spec.bidirectional:
        kind = type(network).__name__
        raise ValueError(f"network: expected one direction to run step by step, got a bidirectional {kind}")
    if spec.step is None:
        return run_step(network, spec, inputs, state, **arguments)
    return spec.step(network, inputs, own_copy(network, state), **arguments)


def run_sequence(
    network: nn.Module, spec: StateSpec, inputs: Tensor, state: State, /, **options: Any
) -> tuple[Any, Any]:
    """Call a network of sequences; TypeError unless it returns (output, state) of the sizes of batch and time."""
    time, batch = spec.known_time_dim, spec.input_batch_dim
    assert isinstance(time, int)
    returned = call(network, spec, inputs, own_copy(network, state), **options)
    rows, steps = inputs.shape[batch], inputs.shape[time]
    if _is_pair(spec, returned, rows):
        output, state = returned
        fits = isinstance(output, Tensor) and output.ndim > max(time, batch)
        if fits and (output.shape[batch], output.shape[time]) == (rows, steps):
            return output, state
    raise TypeError(
        f"network: expected {type(network).__name__} to return (output, state), the output of batch size {rows} in "
        f"axis {batch} and {steps} steps in axis {time}, the state {spec.describe()}, got {describe_state(returned)}"
    )


def run_step(
    network: nn.Module, spec: StateSpec, inputs: Tensor, state: State, /, **arguments: Any
) -> tuple[Any, State]:
    """One step made of one call: inputs (B, ...) and a state to the output (B, ...) and the next state."""
    time, batch = spec.known_time_dim, spec.input_batch_dim
    if time == "unknown":
        raise ValueError(_SAY_TIME_DIM.format(kind=type(network).__name__))
    if time is None:
        rows = next(iter(spec.unpack(state).values())).shape[0]  # inputs may be of any type
        returned = call(
            network, spec, inputs.movedim(0, batch) if batch else inputs, own_copy(network, state), **arguments
        )
        if _is_pair(spec, returned, rows):
            output, state = returned
            if not isinstance(output, Tensor):
                return output, state
            if output.ndim > batch and output.shape[batch] == rows:
                return output.movedim(batch, 0), state
        elif matches(spec.tree, returned, rows, None):
            leaf = next(leaves_of(spec.tree))
            return spec.unpack(returned)[leaf.name], returned
        raise TypeError(
            f"network: expected {type(network).__name__} to return (output, state) or a state, the output of batch "
            f"size {rows} in axis {batch}, the state {spec.describe()}, got {describe_state(returned)}"
        )
    place = batch - 1 if time < batch else batch
    cut = {name: value for name, value in arguments.items() if name in spec.per_step}
    options = {**arguments, **{name: value.movedim(0, place).unsqueeze(time) for name, value in cut.items()}}
    output, state = run_sequence(network, spec, inputs.movedim(0, place).unsqueeze(time), state, **options)
    return output.squeeze(time).movedim(place, 0), state


def _is_pair(spec: StateSpec, returned: Any, rows: int) -> bool:
    pair = isinstance(returned, (tuple, list)) and len(returned) == 2
    return pair and matches(spec.tree, returned[1], rows, None)


_SAY_TIME_DIM = (
    "network: expected to know whether {kind} takes sequences or one step a call; give its StateSpec time_dim=..., the "
    "time axis of its input, or None for one step"
)


def find_time_dim(network: nn.Module, spec: StateSpec, step: Tensor) -> StateSpec:
    """`spec` with the one time_dim under which `network` runs: one step, or a sequence of one step, is tried.

    `step` is an input of one step, (B, ...), of which only shape, dtype and device count. Raises ValueError where both
    ways run or none does, and under torch.export, which cannot try.
    """
    if torch.compiler.is_exporting():
        raise ValueError(f"{_SAY_TIME_DIM.format(kind=type(network).__name__)} (torch.export cannot try which it is)")
    return _tried_time_dim(network, spec, step)


@untraced
def _tried_time_dim(network: nn.Module, spec: StateSpec, step: Tensor) -> StateSpec:
    parameter = first_parameter(network)
    like = torch.empty(0, device=torch.get_default_device()) if parameter is None else parameter
    dtype, device = dtype_and_device(network, like)
    like = torch.empty(0, dtype=dtype, device=device)
    # A batch size of its own: no other axis can stand for the batch then.
    sizes = {*step.shape, *(size for tensor in network.parameters() for size in tensor.shape)}
    sizes |= {size for tensor in network.buffers() for size in tensor.shape}
    sizes |= {size for leaf in spec for size in leaf.network_shape}
    rows = next(size for size in range(5, len(sizes) + 6) if size not in sizes)
    inputs = step.new_zeros(rows, *step.shape[1:])
    leaves = {leaf.name: like.new_zeros(rows, *leaf.shape, dtype=getattr(leaf, "dtype", None)) for leaf in spec}
    ways: dict[int | None, str] = {}
    if spec.input_ndim in (None, step.ndim):
        ways[None] = "one step"
    if spec.input_ndim in (None, step.ndim + 1) and spec.input_batch_dim < 2:
        ways[1 - spec.input_batch_dim] = "a sequence of one step"
    fitting, errors = [], []
    with torch.no_grad(), unchanged(network, inputs.device):
        for time, words in ways.items():
            way = replace(spec, time_dim=time)
            try:
                run_step(network, way, inputs, spec.pack(leaves))
                fitting.append(way)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                errors.append(f"{words}: {type(error).__name__}: {error}")
    if len(fitting) == 1:
        return fitting[0]
    reason = "it runs with either" if fitting else "; ".join(["it runs with neither", *errors])
    raise ValueError(f"{_SAY_TIME_DIM.format(kind=type(network).__name__)} ({reason})")


@contextmanager
def evaluation(network: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode; afterwards the modes are as they were."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def unchanged(network: nn.Module, device: torch.device) -> Generator[None, None, None]:
    """Evaluation mode; afterwards modes, buffers and generators are as they were."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()  # pyright: ignore[reportPrivateUsage]
        if buffer is not None
    ]
    with evaluation(network), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)  # pyright: ignore[reportPrivateUsage]

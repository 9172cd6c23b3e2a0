"""Is a registration right? Properties that every network has to have, tried on the network itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import NOT_NEGATIVE, check_flag, check_number
from contextual_rnn._tensors import check_dense
from contextual_rnn.spec.arguments import Inputs, merged, split_arguments
from contextual_rnn.spec.gradients import difference_from_finite, gradients_of, with_gradients
from contextual_rnn.spec.networks import spec_of
from contextual_rnn.spec.rows import has_none, tensors_of
from contextual_rnn.spec.spec import StateSpec
from contextual_rnn.spec.steps import copied, step_of, unchanged
from contextual_rnn.spec.tree import describe_state
from contextual_rnn.spec.trial import Trial, in_first_row


def check_spec(
    network: nn.Module,
    input: Tensor,
    *,
    arguments: Mapping[str, Tensor] | None = None,
    tolerance: float | None = None,
    surrogate_gradients: bool = False,
) -> None:
    """Try on `network` what its registered spec says; ValueError names the first property that does not hold.

        check_spec(network, torch.randn(4, 6, input_size))

    In this order: it runs and returns (output, state) as the spec has them; dtypes hold; zeros give finite numbers;
    leaves stay in their domain; nothing is kept between calls; a row's state and input change that row alone; steps and
    pieces give the numbers of the whole run; gradients are finite, reach every leaf, and are the derivatives: compared
    with central differences of a copy in float64, one leaf at a time along a random direction. A network that
    overwrites the state that it is given gets a UserWarning: the library copies the state for it before every call.

    `input` is a batch of two rows or more, of three steps or more unless the network takes one step a call;
    `arguments` are those of `per_step` and `per_row`. `tolerance` is relative to the largest number, by default
    eps ** 0.75 of the dtype. `surrogate_gradients` says that the gradients are no derivatives on purpose, as those of
    spiking networks: then they are not compared. Runs in evaluation mode; modes, buffers and generators are as before
    afterwards.

    Raises TypeError for a network that is not registered, ValueError for an input without rows and steps to compare.
    """
    spec = spec_of(network)
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a module, got {type(network).__name__}")
    check_dense("input", input)
    if tolerance is not None:
        tolerance = check_number("tolerance", tolerance, *NOT_NEGATIVE)
    check_flag("surrogate_gradients", surrogate_gradients)
    inputs = _checked_inputs(spec, input, merged(arguments, {}))
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        unchanged(network, input.device),
        torch.backends.cudnn.flags(enabled=False),
    ):
        trial = Trial(network, spec, inputs, tolerance)
        for check in PROPERTIES if surrogate_gradients else (*PROPERTIES, _gives_derivatives):
            problem = check(trial)
            if problem is not None:
                raise ValueError(f"network: expected a {type(network).__name__} {problem}")


def _checked_inputs(spec: StateSpec, input: Tensor, arguments: Mapping[str, Tensor]) -> Inputs:
    time, batch = spec.known_time_dim, spec.input_batch_dim
    if time == "unknown":
        raise ValueError("network: expected a spec with time_dim, the time axis of the input or None for one step")
    needed = {batch: 2} if time is None else {batch: 2, time: 3}
    if input.ndim <= max(needed) or any(input.shape[axis] < size for axis, size in needed.items()):
        words = " and ".join(f"at least {size} in axis {axis}" for axis, size in needed.items())
        raise ValueError(f"input: expected a batch with {words}, got {tuple(input.shape)}")
    inputs = Inputs(input, batch, batch if time is None else time)
    inputs = split_arguments(arguments, spec.per_step, spec.per_row, inputs, "the input")
    if time is not None and input.shape[batch] == input.shape[time]:  # one axis could be taken for the other
        inputs = inputs.rows(torch.arange(input.shape[batch] - 1, device="cpu")) if input.shape[batch] > 2 else inputs
    return inputs


def _runs(trial: Trial) -> str | None:
    expected = f"that runs from {trial.spec.describe()} and returns (output, state)"
    hint = "see its Leafs' shapes and batch_dim, input_batch_dim and time_dim, or give the spec a call"
    try:
        returned = trial.run(trial.state())
    except Exception as error:
        return f"{expected}, got {type(error).__name__}: {error}; {hint}"
    received = describe_state(returned)
    pair = isinstance(returned, (tuple, list)) and len(returned) == 2
    if pair and trial.fits(returned[0]) and not trial.fits(returned[1]):
        return f"{expected}, got them in the other order, {received}; give the spec a call that swaps them"
    if trial.spec.known_time_dim is not None and (not pair or trial.fits(returned)):
        alone = "the state alone, " if trial.fits(returned) else ""
        return f"{expected}, got {alone}{received}; return the output and the final state, or {hint}"
    try:
        output, state = trial.pair(returned)
        leaves = trial.spec.check(state, "the state returned")
    except (TypeError, ValueError, IndexError, KeyError) as error:
        return f"{expected}, got {received} ({error}); return the final state in the structure of the spec, or {hint}"
    axes = {trial.inputs.batch_dim, trial.inputs.time_dim}
    shape = trial.inputs.tensor.shape
    if not isinstance(output, Tensor) or output.ndim <= max(axes) or any(output.shape[a] != shape[a] for a in axes):
        words = " and ".join(f"{shape[axis]} in axis {axis}" for axis in sorted(axes))
        return f"whose output has {words}, as its input, got {describe_state(output)}; {hint}"
    for name, tensor in leaves.items():
        if len(tensor) != trial.batch:
            return f"whose state has {trial.batch} rows, got {len(tensor)} in leaf {name!r}; {hint}"
    return None


def _keeps_dtypes(trial: Trial) -> str | None:
    for leaf, tensor in zip(trial.spec, trial.whole[1:], strict=True):
        expected = trial.leaves[leaf.name].dtype
        if tensor.dtype != expected:
            return (
                f"that returns leaf {leaf.name!r} in {expected}, as it gets it, got {tensor.dtype}; convert it in the "
                f"network, or give the leaf its dtype, Leaf({leaf.name!r}, ..., dtype=...)"
            )
    return None


def _is_finite_from_zeros(trial: Trial) -> str | None:
    from_zeros = trial.tensors(trial.run(trial.state(trial.zeros)))
    hints = {
        "a state of zeros": "where the network starts from another number, say it with Leaf(..., start=...)",
        "a random state of both signs": 'where its states are of one sign, say it with Leaf(..., domain="positive")',
    }
    for (words, hint), results in zip(hints.items(), (from_zeros, trial.whole), strict=True):
        for number, tensor in enumerate(results):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                name = trial.name_of(number)
                return f"that gives finite numbers from {words}, got NaN or infinity in {name}; {hint}"
    return None


def _stays_in_its_domain(trial: Trial) -> str | None:
    leaves = {leaf.name: tensor for leaf, tensor in zip(trial.spec, trial.whole[1:], strict=True)}
    outside = trial.spec.outside(leaves)
    return None if outside is None else f"whose final state has {outside}; see the domain of its Leafs"


def _keeps_nothing(trial: Trial) -> str | None:
    trial.run(trial.state(trial.random(1)))
    difference = trial.difference(trial.tensors(trial.run(trial.state())), trial.whole)
    if difference is not None:
        return (
            f"that returns the same for the same state and input, got {difference} after another call; it keeps a "
            "state or draws random numbers: have it take and return all of its state"
        )
    return None


def _keeps_rows_apart(trial: Trial) -> str | None:
    index = torch.arange(trial.batch, device="cpu")
    other = torch.where(index == 0, trial.batch - 1, index)  # the last row in the place of the first
    leaves = {name: torch.where(in_first_row(leaf), trial.random(2)[name], leaf) for name, leaf in trial.leaves.items()}
    for what, inputs, state in (("state", trial.inputs, leaves), ("input", trial.inputs.rows(other), trial.leaves)):
        results = trial.tensors(trial.run(trial.state(state), inputs))
        difference = trial.difference([t[1:] for t in results], [t[1:] for t in trial.whole])
        if difference is not None:
            return (
                f"in which the {what} of a row changes that row alone, got {difference} in other rows when the {what} "
                "of the first row is changed; see the batch_dim of its Leafs and input_batch_dim"
            )
    return None


def _steps_are_the_whole_run(trial: Trial) -> str | None:
    if trial.spec.known_time_dim is None or trial.spec.bidirectional:
        return None
    inputs, steps = trial.inputs, trial.inputs.tensor.shape[trial.inputs.time_dim]
    state, outputs = trial.spec.pack(trial.leaves), []
    try:
        for number in range(steps):
            step = inputs.step(number)
            output, state = step_of(trial.network, trial.spec, step.tensor, state, **step.arguments)
            outputs.append(output)
    except Exception as error:
        return f"that runs step by step, got {type(error).__name__}: {error}"
    axis = inputs.time_dim if inputs.time_dim > inputs.batch_dim else inputs.time_dim + 1
    results = [torch.stack(outputs, axis), *trial.spec.check(state).values()]
    if (difference := trial.difference(results, trial.whole)) is not None:
        return f"whose steps give the numbers of the whole run, got {difference}; return all that the next one reads"
    if has_none(trial.spec.tree):  # a part that the network returns on request alone
        return None
    first = trial.pair(trial.run(trial.state(), inputs.steps(0, 2)))
    rest = trial.run(copied(first[1]), inputs.steps(2, steps - 2))
    whole = [trial.whole[0].narrow(axis, 2, steps - 2), *trial.whole[1:]]
    if (difference := trial.difference(trial.tensors(rest), whole)) is not None:
        return f"whose pieces give the numbers of the whole run, got {difference}; return all that the next one reads"
    return None


def _leaves_the_state_alone(trial: Trial) -> str | None:
    """No error of itself: the library gives such a network copies."""
    state = trial.state()
    before = [tensor.clone() for tensor in tensors_of(state)]
    trial.run(state)
    after = tensors_of(state)
    if len(after) != len(before) or not all(map(torch.equal, after, before)):
        warnings.warn(
            f"{type(trial.network).__name__} overwrites the state that it is given. The library copies it before every "
            f"call, {sum(tensor.numel() for tensor in before)} numbers here; other callers lose theirs",
            stacklevel=3,
        )
    return None


def _gives_gradients(trial: Trial) -> str | None:
    try:
        gradients = gradients_of(*with_gradients(trial, trial.leaves))
        from_zeros = gradients_of(*with_gradients(trial, trial.zeros))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        return f"through which gradients flow, got {type(error).__name__}: {reason}; compute a new state, not in place"
    for name, gradient in gradients.items():
        rows = None if gradient is None else gradient.flatten(1).abs().amax(1)
        if rows is None or not bool((rows > 0).all()):
            return (
                f"in which a gradient reaches leaf {name!r}, got none; see whether the network detaches it, or does "
                "not use it"
            )
        if not bool(rows.isfinite().all()):
            return f"with finite gradients, got NaN or infinity for leaf {name!r}"
    # No learned state reaches the limit of a domain, where a root or a logarithm has no slope.
    at_limits = {leaf.name for leaf, domain in trial.spec.bounded if not domain.has(leaf.start, limits=False)}
    for name, gradient in from_zeros.items():
        if name not in at_limits and gradient is not None and not gradient.isfinite().all():
            return f"with finite gradients at a state of zeros, got NaN or infinity for leaf {name!r}"
    return None


def _gives_derivatives(trial: Trial) -> str | None:
    if (difference := difference_from_finite(trial)) is not None:
        return (
            f"whose gradients are its derivatives, got a gradient and a finite difference of {difference}; see its "
            "backward pass, or say surrogate_gradients=True where they differ on purpose"
        )
    return None


PROPERTIES: tuple[Callable[[Trial], str | None], ...] = (
    _runs,
    _keeps_dtypes,
    _is_finite_from_zeros,
    _stays_in_its_domain,
    _keeps_nothing,
    _keeps_rows_apart,
    _steps_are_the_whole_run,
    _leaves_the_state_alone,
    _gives_gradients,
)

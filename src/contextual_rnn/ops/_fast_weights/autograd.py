"""What turns a kernel, forward and backward on plain tensors, into a backend and into a PyTorch operator.

There are three ways in. Eager mode calls the kernel from a plain `autograd.Function`. torch.func needs one whose
context is set up apart, for which PyTorch inspects a signature at every call: 45 microseconds. torch.compile needs the
operator, `torch.ops.contextual_rnn.fast_weights_<name>`: its way through the dispatcher and back costs a training step
110 microseconds, about the work of a small kernel, and torch.func cannot see through its derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional

from contextual_rnn._shapes import Float, Int
from contextual_rnn._tensors import PLAIN_TENSORS
from contextual_rnn.ops._fast_weights.attention import final_fast_weights
from contextual_rnn.ops._fast_weights.kernel import Given, Kernel, Settings
from contextual_rnn.ops._fast_weights.operator import (
    N_DIFFERENTIABLE,
    N_GIVEN,
    N_SETTINGS,
    differentiate,
    one_by_one,
    register,
    spread,
)
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank, decay_tables
from contextual_rnn.ops.once import refuse_second_derivative

Backend = Callable[..., tuple[Tensor, Tensor | None]]

# Without torch.compile a kernel may be given a projection besides.
_GIVEN = len(Given._fields)
_DIFFERENTIABLE = _GIVEN - 1


def prepare(
    inputs: Tensor,
    steps: int,
    weight_hh: Tensor,
    h0: Tensor,
    a0: Tensor | LowRank | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    lengths: Tensor | None,
    options: FastWeightsOptions,
    weight_ih: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Given, Settings]:
    """What a kernel is given, from what a backend is."""
    left, right = a0 if isinstance(a0, LowRank) else (None, None)
    given = Given(
        inputs, weight_hh, h0, a0 if isinstance(a0, Tensor) else None, left, right, norm_weight, norm_bias,
        *decay_tables(options, steps, inputs), None if lengths is None else lengths.long(), weight_ih, bias,
    )  # fmt: skip
    shared = isinstance(a0, Tensor) and a0.stride(0) == 0
    given = Given._make([None if tensor is None else tensor.resolve_neg() for tensor in given])
    return given, Settings.of(options, shared)


def backend_of(kernel: Kernel) -> Backend:
    """The backend that runs `kernel`, whose operator is registered on the way.

    Beside what every backend takes it may be given weight_ih and bias: inputs are then features yet to be projected.
    """
    operator = register(kernel)

    def backend(
        inputs: Float[Tensor, "B T I"],
        weight_hh: Float[Tensor, "H H"],
        h0: Float[Tensor, "B H"],
        a0: Float[Tensor, "B H H"] | LowRank | None,
        norm_weight: Float[Tensor, " H"] | None,
        norm_bias: Float[Tensor, " H"] | None,
        lengths: Int[Tensor, " B"] | None,
        options: FastWeightsOptions,
        weight_ih: Float[Tensor, "H I"] | None = None,
        bias: Float[Tensor, " H"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H H"] | None]:
        if not kernel.supports(weight_hh):
            raise ValueError(
                f"backend: expected tensors for the {kernel.name} kernel, {kernel.availability()}, "
                f"got {inputs.dtype} of {weight_hh.shape[-1]} units on {inputs.device}"
            )
        given, settings = prepare(
            inputs, inputs.shape[1], weight_hh, h0, a0, norm_weight, norm_bias, lengths, options, weight_ih, bias
        )
        # Tensors of classes of their own may have their elements elsewhere: they go by the operator.
        eager = _PLAIN_OR_NONE.issuperset(map(type, given)) and not torch.compiler.is_compiling()
        if weight_ih is not None and not (eager and kernel.projects(weight_ih)):
            projected = functional.linear(given.inputs, weight_ih, bias)
            given = given._replace(inputs=projected, weight_ih=None, bias=None)
        keep_written = settings.write_before_read and options.return_fast_weights
        if not eager:
            keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
            output, written, _ = operator(*given[:N_GIVEN], *settings, keep, keep_written)
        elif any([is_transformed(tensor) for tensor in given if tensor is not None]):
            # What torch.func holds need not know that its gradient is wanted.
            output, written, _ = _Transformed.apply(kernel, *given, *settings, torch.is_grad_enabled(), keep_written)
        else:
            present = [tensor for tensor in given if tensor is not None]
            output = written = _Recurrence.apply(kernel, given, settings, keep_written, *present)
            if keep_written:
                output, written = output
        if not options.return_fast_weights:
            return output, None
        tables = given.discounts, given.retained
        return output, final_fast_weights(written if keep_written else output, a0, lengths, tables)

    return backend


_PLAIN_OR_NONE = PLAIN_TENSORS | {type(None)}
is_transformed = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]


class _Recurrence(torch.autograd.Function):
    """A kernel under autograd alone; `tensors` are those that `given` has, once more, for autograd to see.

    Returns what was written besides the outputs only where it is kept: every tensor here costs microseconds.
    """

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, given: Given, settings: Settings, keep_written: bool, *tensors: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        keep = any(ctx.needs_input_grad)
        output, written, saved = kernel.forward(given, settings, keep, keep_written)
        if keep:
            ctx.kernel, ctx.settings = kernel, settings
            ctx.absent = [tensor is None for tensor in given]
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, output, saved)
        return (output, written) if keep_written else output

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        *present, output, saved = ctx.saved_tensors
        left, needs, grad_outputs = iter(present), iter(ctx.needs_input_grad[4:]), (grad_output, grad_written)
        tensors: list[Any] = [None if absent else next(left) for absent in ctx.absent]
        wanted = _without_lengths([not absent and next(needs) for absent in ctx.absent])
        if torch.is_grad_enabled():  # somebody means to differentiate this once more
            grads = _Derivative.apply(ctx.kernel, *tensors, *ctx.settings, output, saved, *grad_outputs, *wanted)
        else:
            grads = differentiate(ctx.kernel, Given(*tensors), ctx.settings, output, saved, *grad_outputs, wanted)
        grads = _with_lengths(spread(grads, wanted))
        return (None, None, None, None, *[g for g, absent in zip(grads, ctx.absent, strict=True) if not absent])


def _without_lengths(of_given: Sequence[bool]) -> list[bool]:
    return [*of_given[:N_DIFFERENTIABLE], *of_given[N_GIVEN:]]


def _with_lengths(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return (*grads[:N_DIFFERENTIABLE], None, *grads[N_DIFFERENTIABLE:])


class _Transformed(torch.autograd.Function):
    """A kernel under the transforms of torch.func."""

    @staticmethod
    def forward(kernel: Kernel, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings = Given(*arguments[:_GIVEN]), Settings(*arguments[_GIVEN : _GIVEN + N_SETTINGS])
        return kernel.forward(given, settings, *arguments[_GIVEN + N_SETTINGS :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        outputs, written, saved = output
        ctx.kernel, ctx.settings = inputs[0], inputs[_GIVEN + 1 : _GIVEN + 1 + N_SETTINGS]
        keep_written = inputs[-1]
        ctx.mark_non_differentiable(saved) if keep_written else ctx.mark_non_differentiable(saved, written)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1 : _GIVEN + 1], outputs, saved)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *given, output, saved = ctx.saved_tensors
        wanted = _without_lengths(ctx.needs_input_grad[1 : _GIVEN + 1])
        grads = _Derivative.apply(ctx.kernel, *given, *ctx.settings, output, saved, grad_output, grad_written, *wanted)
        return (None, *_with_lengths(spread(grads, wanted)), *(None,) * (N_SETTINGS + 2))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return one_by_one(_Transformed.apply)(info, in_dims, *arguments)


class _Derivative(torch.autograd.Function):
    """The backward pass, which has no derivative of its own."""

    @staticmethod
    def forward(kernel: Kernel, *arguments: Any) -> tuple[Tensor, ...]:
        given, settings = Given(*arguments[:_GIVEN]), Settings(*arguments[_GIVEN : _GIVEN + N_SETTINGS])
        others = arguments[_GIVEN + N_SETTINGS : -_DIFFERENTIABLE]
        return tuple(differentiate(kernel, given, settings, *others, list(arguments[-_DIFFERENTIABLE:])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> NoReturn:
        refuse_second_derivative()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return one_by_one(_Derivative.apply)(info, in_dims, *arguments)

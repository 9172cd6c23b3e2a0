"""What turns a kernel, forward and backward on plain tensors, into a backend and into a PyTorch operator.

There are three ways in. Eager mode calls the kernel from a plain `autograd.Function`. torch.func needs one whose
context is set up apart, for which PyTorch inspects a signature at every call: 45 microseconds. torch.compile needs the
operator, `torch.ops.contextual_rnn.fast_weights_<name>`: its way through the dispatcher and back costs a training step
110 microseconds, about the work of a small kernel, and torch.func cannot see through its derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from contextual_rnn._shapes import Float, Int
from contextual_rnn.ops.attention import final_fast_weights
from contextual_rnn.ops.kernel import Given, Kernel, Settings
from contextual_rnn.ops.once import refuse_second_derivative
from contextual_rnn.ops.operator import (
    N_DIFFERENTIABLE,
    N_GIVEN,
    N_SETTINGS,
    differentiate,
    one_by_one,
    register,
    spread,
)
from contextual_rnn.ops.options import FastWeightsOptions, LowRank, decay_tables

Backend = Callable[..., tuple[Tensor, Tensor | None]]


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
) -> tuple[Given, Settings]:
    """What a kernel is given, from what a backend is."""
    left, right = a0 if isinstance(a0, LowRank) else (None, None)
    given = Given(
        inputs, weight_hh, h0, a0 if isinstance(a0, Tensor) else None, left, right, norm_weight, norm_bias,
        *decay_tables(options, steps, inputs), None if lengths is None else lengths.long(),
    )  # fmt: skip
    shared = isinstance(a0, Tensor) and a0.stride(0) == 0
    early = options.timing == "wenke2019"
    settings = Settings(options.inner_steps, early, options.layer_norm, shared, options.eps)
    return given._make(None if tensor is None else tensor.resolve_neg() for tensor in given), settings


def backend_of(kernel: Kernel) -> Backend:
    """The backend that runs `kernel`, whose operator is registered on the way."""
    operator = register(kernel)

    def backend(
        inputs: Float[Tensor, "B T H"],
        weight_hh: Float[Tensor, "H H"],
        h0: Float[Tensor, "B H"],
        a0: Float[Tensor, "B H H"] | LowRank | None,
        norm_weight: Float[Tensor, " H"] | None,
        norm_bias: Float[Tensor, " H"] | None,
        lengths: Int[Tensor, " B"] | None,
        options: FastWeightsOptions,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H H"] | None]:
        if not kernel.supports(inputs):
            raise ValueError(
                f"backend: expected tensors for the {kernel.name} kernel, {kernel.availability()}, "
                f"got {inputs.dtype} on {inputs.device}"
            )
        given, settings = prepare(inputs, inputs.shape[1], weight_hh, h0, a0, norm_weight, norm_bias, lengths, options)
        keep_written = settings.write_before_read and options.return_fast_weights
        tensors = [tensor for tensor in given if tensor is not None]
        if torch.compiler.is_compiling() or type(inputs) not in (Tensor, torch.nn.Parameter):
            keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
            output, written, _ = operator(*given, *settings, keep, keep_written)
        elif any(map(_is_transformed, tensors)):
            # What torch.func holds need not know that its gradient is wanted.
            output, written, _ = _Transformed.apply(kernel, *given, *settings, torch.is_grad_enabled(), keep_written)
        else:
            output, written = _Recurrence.apply(kernel, given, settings, keep_written, *given)
        if not options.return_fast_weights:
            return output, None
        tables = given.discounts, given.retained
        return output, final_fast_weights(written if keep_written else output, a0, lengths, tables)

    return backend


_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]


class _Recurrence(torch.autograd.Function):
    """A kernel under autograd alone; `tensors` are those of `given` once more, for autograd to see."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, given: Given, settings: Settings, keep_written: bool, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        output, written, saved = kernel.forward(given, settings, any(ctx.needs_input_grad), keep_written)
        ctx.kernel, ctx.settings = kernel, settings
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output, saved)
        if not keep_written:
            ctx.mark_non_differentiable(written)
        return output, written

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, output, saved = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[4 : N_DIFFERENTIABLE + 4])
        if torch.is_grad_enabled():  # somebody means to differentiate this once more
            grads = _Derivative.apply(ctx.kernel, *tensors, *ctx.settings, output, saved, *grad_outputs, *wanted)
        else:
            grads = differentiate(ctx.kernel, Given(*tensors), ctx.settings, output, saved, *grad_outputs, wanted)
        return (None, None, None, None, *spread(grads, wanted), None)


class _Transformed(torch.autograd.Function):
    """A kernel under the transforms of torch.func."""

    @staticmethod
    def forward(kernel: Kernel, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings = Given(*arguments[:N_GIVEN]), Settings(*arguments[N_GIVEN : N_GIVEN + N_SETTINGS])
        return kernel.forward(given, settings, *arguments[N_GIVEN + N_SETTINGS :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        outputs, written, saved = output
        ctx.kernel, ctx.settings = inputs[0], inputs[N_GIVEN + 1 : N_GIVEN + 1 + N_SETTINGS]
        keep_written = inputs[-1]
        ctx.mark_non_differentiable(saved) if keep_written else ctx.mark_non_differentiable(saved, written)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1 : N_GIVEN + 1], outputs, saved)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *given, output, saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 : N_DIFFERENTIABLE + 1]
        grads = _Derivative.apply(ctx.kernel, *given, *ctx.settings, output, saved, grad_output, grad_written, *wanted)
        return (None, *spread(grads, wanted), *(None,) * (1 + N_SETTINGS + 2))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return one_by_one(_Transformed.apply)(info, in_dims, *arguments)


class _Derivative(torch.autograd.Function):
    """The backward pass, which has no derivative of its own."""

    @staticmethod
    def forward(kernel: Kernel, *arguments: Any) -> tuple[Tensor, ...]:
        given, settings = Given(*arguments[:N_GIVEN]), Settings(*arguments[N_GIVEN : N_GIVEN + N_SETTINGS])
        others = arguments[N_GIVEN + N_SETTINGS : -N_DIFFERENTIABLE]
        return tuple(differentiate(kernel, given, settings, *others, list(arguments[-N_DIFFERENTIABLE:])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> NoReturn:
        refuse_second_derivative()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return one_by_one(_Derivative.apply)(info, in_dims, *arguments)

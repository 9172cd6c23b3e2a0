"""A native kernel under autograd.

There are three ways to call one. Eager mode calls it from a plain `autograd.Function`. torch.func needs one whose
context is set up apart, for which PyTorch inspects a signature at every call: 45 microseconds. torch.compile needs the
operator, `torch.ops.contextual_rnn.<name>`: its way through the dispatcher and back costs a training step 110
microseconds, about the work of a small kernel, and torch.func cannot see through its derivative. What is called from a
function may not be compiled: in pieces it would free tensors whose addresses the kernel has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from contextual_rnn._tensors import PLAIN_TENSORS
from contextual_rnn._torch_internals import (
    dispatch_mode,
    each_of_a_batch,
    in_forward_ad,
    is_transformed,
    not_compiled,
    transforms,
)
from contextual_rnn.ops.native.kernel import Kinds, Operation, kinds_of, spread
from contextual_rnn.ops.native.once import refuse_carried_derivative, refuse_second_derivative
from contextual_rnn.ops.native.operator import one_by_one

_PLAIN_OR_NONE = PLAIN_TENSORS | {type(None)}


def is_eager(given: Any) -> bool:
    """Whether a kernel can be called without its operator.

    Tensors of other classes may have no memory of their own, and a mode such as make_fx sees operators alone.
    """
    plain = _PLAIN_OR_NONE.issuperset(map(type, given))
    return plain and not torch.compiler.is_compiling() and dispatch_mode() is None


def run_eagerly(operation: Operation, given: Any, settings: Any, keep_extra: bool) -> tuple[Tensor, Tensor | None]:
    """The outputs of a kernel and its further result, None unless it is kept; under torch.func too."""
    present = [tensor for tensor in given if tensor is not None]
    if transforms() is not None or any([is_transformed(tensor) for tensor in present]):
        # What torch.func holds need not know that its gradient is wanted.
        keep = torch.is_grad_enabled()
        output, extra, _ = _Transformed.apply(operation, *given, *settings, keep, keep_extra)
        return output, extra if keep_extra else None
    if not torch.is_grad_enabled():  # which `needs_input_grad` does not know: all would be kept for a backward pass
        output, extra, _ = operation.run(given, settings, False, keep_extra)
        return output, extra if keep_extra else None
    result = _apply_eagerly(operation, given, settings, keep_extra, *present)
    return result if keep_extra else (result, None)


def run_as_operator(
    operation: Operation, operator: Any, given: Any, settings: Any, keep_extra: bool
) -> tuple[Tensor, Tensor | None]:
    """The same by the operator that `register` returned."""
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    output, extra, _ = operator(*given[: operation.n_in_operator], *settings, keep, keep_extra)
    return output, extra if keep_extra else None


class _Eager(torch.autograd.Function):
    """A kernel under autograd alone; `tensors` are those that `given` has, once more, for autograd to see.

    Returns the further result only where it is kept: every tensor here costs microseconds.
    """

    @staticmethod
    @not_compiled
    def forward(
        ctx: Any, operation: Operation, given: Any, settings: Any, keep_extra: bool, *tensors: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        keep = any(ctx.needs_input_grad)
        output, extra, saved = operation.run(given, settings, keep, keep_extra)
        if keep:
            ctx.operation, ctx.settings, ctx.kinds = operation, settings, kinds_of(given)
            ctx.absent = [tensor is None for tensor in given]
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, output, saved)
        return (output, extra) if keep_extra else output

    @staticmethod
    @not_compiled
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_extra: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        *present, output, saved = ctx.saved_tensors
        operation, settings, grad_outputs = ctx.operation, ctx.settings, (grad_output, grad_extra)
        remaining, needs = iter(present), iter(ctx.needs_input_grad[4:])
        tensors: list[Any] = [None if absent else next(remaining) for absent in ctx.absent]
        wanted = [not absent and next(needs) for absent in ctx.absent]
        given = operation.given(*tensors)

        def differentiate(*grad_outputs: Tensor | None) -> Sequence[Tensor]:
            if torch.is_grad_enabled() or in_forward_ad():  # these gradients may be differentiated once more
                return _Derivative.apply(operation, ctx.kinds, *given, *settings, output, saved, *grad_outputs, *wanted)
            return operation.differentiate(given, settings, ctx.kinds, output, saved, *grad_outputs, wanted)

        grads = spread(each_of_a_batch(differentiate, grad_outputs), wanted)
        return (None, None, None, None, *[g for g, absent in zip(grads, ctx.absent, strict=True) if not absent])


# What `Function.apply` calls once it has looked for tensors of torch.func, of which there are none: it looks for longer
# than a small kernel runs.
_apply_eagerly = super(torch.autograd.Function, _Eager).apply  # pyright: ignore[reportAttributeAccessIssue]


class _Transformed(torch.autograd.Function):
    """A kernel under the transforms of torch.func."""

    @staticmethod
    @not_compiled
    def forward(operation: Operation, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings, (keep, keep_extra) = operation.unpack(arguments, operation.n_given)
        return operation.run(given, settings, keep, keep_extra)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        operation, *arguments = inputs
        outputs, extra, saved = output
        given, settings, (_, keep_extra) = operation.unpack(arguments, operation.n_given)
        ctx.operation, ctx.settings, ctx.kinds = operation, settings, kinds_of(given)
        ctx.mark_non_differentiable(saved) if keep_extra else ctx.mark_non_differentiable(saved, extra)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, outputs, saved)

    @staticmethod
    @not_compiled
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_extra: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        operation, (*given, output, saved) = ctx.operation, ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 : operation.n_given + 1]
        results = output, saved, grad_output, grad_extra
        grads = _Derivative.apply(operation, ctx.kinds, *given, *ctx.settings, *results, *wanted)
        return (None, *spread(grads, wanted), *(None,) * (operation.n_settings + 2))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return one_by_one(_Transformed.apply)(info, in_dims, *arguments)


class _Derivative(torch.autograd.Function):
    """The backward pass, which has no derivative of its own."""

    @staticmethod
    @not_compiled
    def forward(operation: Operation, kinds: Kinds, *arguments: Any) -> tuple[Tensor, ...]:
        given, settings, others = operation.unpack(arguments[: -operation.n_given], operation.n_given)
        return tuple(operation.differentiate(given, settings, kinds, *others, list(arguments[-operation.n_given :])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    @not_compiled
    def backward(ctx: Any, *grad_outputs: Tensor) -> NoReturn:
        refuse_second_derivative()

    @staticmethod
    @not_compiled
    def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
        refuse_carried_derivative()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return one_by_one(_Derivative.apply)(info, in_dims, *arguments)

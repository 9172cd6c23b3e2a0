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

from contextual_rnn._shapes import Float, Int
from contextual_rnn.ops.attention import final_fast_weights
from contextual_rnn.ops.kernel import Given, Kernel, Settings
from contextual_rnn.ops.once import refuse_second_derivative
from contextual_rnn.ops.options import FastWeightsOptions, LowRank, decay_tables

_GIVEN = (
    "Tensor inputs, Tensor weight_hh, Tensor h0, Tensor? a0, Tensor? left, Tensor? right, Tensor? norm_weight, "
    "Tensor? norm_bias, Tensor discounts, Tensor retained, Tensor? lengths"
)
_SETTINGS = "int inner_steps, bool write_before_read, bool layer_norm, bool shared_a0, float eps"
_N, _M = len(Given._fields), len(Settings._fields)
_DIFFERENTIABLE = _N - 1

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
    operator = _register(kernel)

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


def _one_by_one(call: Callable[..., Any]) -> Callable[..., Any]:
    """The rule by which torch.func.vmap maps over `call`: each in turn, as each may have weights of its own."""

    def mapped(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        def at(i: int) -> list[Any]:
            return [
                argument if dim is None else argument.select(dim, i)
                for argument, dim in zip(arguments, in_dims, strict=True)
            ]

        results = [call(*at(i)) for i in range(info.batch_size)]
        stacked = [torch.stack(each) for each in zip(*results, strict=True)]
        kind = type(results[0])
        return kind(stacked), kind([0] * len(stacked))

    return mapped


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
        wanted = list(ctx.needs_input_grad[4 : _DIFFERENTIABLE + 4])
        if torch.is_grad_enabled():  # somebody means to differentiate this once more
            grads = _Derivative.apply(ctx.kernel, *tensors, *ctx.settings, output, saved, *grad_outputs, *wanted)
        else:
            grads = _differentiate(ctx.kernel, Given(*tensors), ctx.settings, output, saved, *grad_outputs, wanted)
        return (None, None, None, None, *_spread(grads, wanted), None)


class _Transformed(torch.autograd.Function):
    """A kernel under the transforms of torch.func."""

    @staticmethod
    def forward(kernel: Kernel, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings = Given(*arguments[:_N]), Settings(*arguments[_N : _N + _M])
        return kernel.forward(given, settings, *arguments[_N + _M :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        outputs, written, saved = output
        ctx.kernel, ctx.settings = inputs[0], inputs[_N + 1 : _N + 1 + _M]
        keep_written = inputs[-1]
        ctx.mark_non_differentiable(saved) if keep_written else ctx.mark_non_differentiable(saved, written)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1 : _N + 1], outputs, saved)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *given, output, saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 : _DIFFERENTIABLE + 1]
        grads = _Derivative.apply(ctx.kernel, *given, *ctx.settings, output, saved, grad_output, grad_written, *wanted)
        return (None, *_spread(grads, wanted), *(None,) * (1 + _M + 2))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(_Transformed.apply)(info, in_dims, *arguments)


class _Derivative(torch.autograd.Function):
    """The backward pass, which has no derivative of its own."""

    @staticmethod
    def forward(kernel: Kernel, *arguments: Any) -> tuple[Tensor, ...]:
        given, settings = Given(*arguments[:_N]), Settings(*arguments[_N : _N + _M])
        others = arguments[_N + _M : -_DIFFERENTIABLE]
        return tuple(_differentiate(kernel, given, settings, *others, list(arguments[-_DIFFERENTIABLE:])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> NoReturn:
        refuse_second_derivative()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(_Derivative.apply)(info, in_dims, *arguments)


def _differentiate(kernel: Kernel, given: Given, settings: Settings, output: Tensor, *others: Any) -> list[Tensor]:
    """`Kernel.backward`, which must not be entered with less than it saved."""
    saved, expected = others[0], kernel.saved_size(given, settings)
    if saved.shape != (expected,) or saved.dtype != output.dtype or not saved.is_contiguous():
        raise RuntimeError(f"saved: expected {expected} elements of {output.dtype}, got {described(saved)}")
    return kernel.backward(given, settings, output, *others)


def _check(kernel: Kernel, given: Given, settings: Settings, **others: Tensor | None) -> None:
    """Refuse what the public door never lets through, since anybody may call an operator."""
    inputs = given.inputs
    if inputs.ndim != 3 or 0 in inputs.shape[1:] or not kernel.supports(inputs):
        raise ValueError(f"inputs: expected (B, T, H) for the {kernel.name} kernel, got {described(inputs)}")
    batch, steps, width = inputs.shape
    rank = given.left.shape[1] if given.left is not None and given.left.ndim == 3 else 1
    shapes = {
        "inputs": inputs.shape, "weight_hh": (width, width), "h0": (batch, width), "a0": (batch, width, width),
        "left": (batch, rank, width), "right": (batch, rank, width), "norm_weight": (width,), "norm_bias": (width,),
        "discounts": (steps,), "retained": (steps + 1,),
    } | dict.fromkeys(others, inputs.shape)  # fmt: skip
    for name, tensor in {**given._asdict(), **others}.items():
        shape, dtype = ((batch,), torch.int64) if name == "lengths" else (shapes[name], inputs.dtype)
        if tensor is None:
            continue
        fits = tensor.shape == shape and tensor.dtype == dtype and tensor.device == inputs.device
        if not fits or tensor.layout != torch.strided:
            raise ValueError(f"{name}: expected {dtype} of shape {tuple(shape)}, got {described(tensor)}")
    if (given.left is None) != (given.right is None) or (given.left is not None and given.a0 is not None):
        raise ValueError("a0: expected left and right together and no a0 beside them")
    if settings.inner_steps < 1 or not 0 < settings.eps < float("inf"):
        raise ValueError(f"inner_steps, eps: expected at least 1 and a positive number, got {settings}")


def described(value: object) -> str:
    """What came, for the message of an error."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"


def _spread(grads: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients in the places of what they are wanted for, None elsewhere."""
    left = iter(grads)
    return tuple(next(left) if want else None for want in wanted)


def _register(kernel: Kernel) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    name = f"contextual_rnn::fast_weights_{kernel.name}"
    torch.library.define(
        name, f"({_GIVEN}, {_SETTINGS}, bool keep, bool keep_written) -> (Tensor output, Tensor written, Tensor saved)"
    )
    torch.library.define(
        f"{name}_backward",
        f"({_GIVEN}, {_SETTINGS}, Tensor output, Tensor saved, Tensor? grad_output, Tensor? grad_written, "
        "bool[] wanted) -> Tensor[]",
    )

    @torch.library.impl(name, "default")
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings = Given(*arguments[:_N]), Settings(*arguments[_N : _N + _M])
        _check(kernel, given, settings)
        return kernel.forward(given, settings, *arguments[_N + _M :])

    @torch.library.impl(f"{name}_backward", "default")
    def backward(*arguments: Any) -> list[Tensor]:
        given, settings = Given(*arguments[:_N]), Settings(*arguments[_N : _N + _M])
        output, saved, grad_output, grad_written, wanted = arguments[_N + _M :]
        _check(kernel, given, settings, output=output, grad_output=grad_output, grad_written=grad_written)
        absent = [want and tensor is None for tensor, want in zip(given, wanted, strict=False)]
        if len(wanted) != _DIFFERENTIABLE or any(absent):
            raise ValueError(f"wanted: expected {_DIFFERENTIABLE} bools, none true for an absent tensor, got {wanted}")
        return _differentiate(kernel, given, settings, output, saved, grad_output, grad_written, wanted)

    @torch.library.register_fake(name)
    def fake_forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings = Given(*arguments[:_N]), Settings(*arguments[_N : _N + _M])
        keep, keep_written = arguments[_N + _M :]
        output = torch.empty_like(given.inputs, memory_format=torch.contiguous_format)
        written = torch.empty_like(output) if keep_written else output.new_empty(0)
        return output, written, output.new_empty(kernel.saved_size(given, settings) if keep else 0)

    @torch.library.register_fake(f"{name}_backward")
    def fake_backward(*arguments: Any) -> list[Tensor]:
        given, wanted = arguments[:_DIFFERENTIABLE], arguments[-1]
        return [
            torch.empty_like(tensor, memory_format=torch.contiguous_format)
            for tensor, want in zip(given, wanted, strict=True)
            if want
        ]

    operator = getattr(torch.ops.contextual_rnn, f"fast_weights_{kernel.name}").default
    backward_operator = getattr(torch.ops.contextual_rnn, f"fast_weights_{kernel.name}_backward").default

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.settings = inputs[_N : _N + _M]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:_N], output[0], output[2])

    def differentiate(ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None, _: Any) -> tuple[Any, ...]:
        *given, output, saved = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:_DIFFERENTIABLE])
        grads = backward_operator(*given, *ctx.settings, output, saved, grad_output, grad_written, wanted)
        return (*_spread(grads, wanted), *(None,) * (1 + _M + 2))

    torch.library.register_autograd(name, differentiate, setup_context=setup_context)
    torch.library.register_autograd(f"{name}_backward", refuse_second_derivative)
    torch.library.register_vmap(name, _one_by_one(operator))
    torch.library.register_vmap(f"{name}_backward", _one_by_one(backward_operator))
    return operator

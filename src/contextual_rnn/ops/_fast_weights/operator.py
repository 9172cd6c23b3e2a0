"""A kernel as a PyTorch operator, `torch.ops.contextual_rnn.fast_weights_<name>`: torch.compile's way to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._tensors import described
from contextual_rnn.ops._fast_weights.kernel import Given, Kernel, Settings
from contextual_rnn.ops._fast_weights.options import MOST_INNER_STEPS
from contextual_rnn.ops.once import refuse_second_derivative

_GIVEN = (
    "Tensor inputs, Tensor weight_hh, Tensor h0, Tensor? a0, Tensor? left, Tensor? right, Tensor? norm_weight, "
    "Tensor? norm_bias, Tensor discounts, Tensor retained, Tensor? lengths"
)
_SETTINGS = "int inner_steps, bool write_before_read, bool layer_norm, bool shared_a0, float eps"
N_GIVEN, N_SETTINGS = Given._fields.index("lengths") + 1, len(Settings._fields)
N_DIFFERENTIABLE = N_GIVEN - 1


def one_by_one(call: Callable[..., Any]) -> Callable[..., Any]:
    """The rule by which torch.func.vmap maps over `call`: each in turn, as each may have weights of its own."""

    def mapped(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        def at(i: int) -> list[Any]:
            return [
                argument.select(dim, i) if isinstance(dim, int) else argument  # a list has a list of None
                for argument, dim in zip(arguments, in_dims, strict=True)
            ]

        results = [call(*at(i)) for i in range(info.batch_size)]
        stacked = [torch.stack(each) for each in zip(*results, strict=True)]
        kind = type(results[0])
        return kind(stacked), kind([0] * len(stacked))

    return mapped


def differentiate(kernel: Kernel, given: Given, settings: Settings, output: Tensor, *others: Any) -> list[Tensor]:
    """`Kernel.backward`, which must not be entered with less than it saved."""
    saved, expected = others[0], kernel.saved_size(given, settings)
    fits = saved.dtype == output.dtype and saved.device == output.device and saved.layout == torch.strided
    if not fits or saved.shape != (expected,) or not saved.is_contiguous():
        place = f"{output.dtype} on {output.device}"
        raise RuntimeError(f"saved: expected {expected} contiguous elements of {place}, got {described(saved)}")
    return kernel.backward(given, settings, output, *others)


def _check(kernel: Kernel, given: Given, settings: Settings, **others: Tensor | None) -> None:
    """Refuse what `fast_weights` refuses, since anybody may call an operator."""
    inputs = given.inputs
    if inputs.is_nested or inputs.ndim != 3 or 0 in inputs.shape[1:] or not kernel.supports(inputs):
        raise ValueError(f"inputs: expected (B, T, H) for the {kernel.name} kernel, got {described(inputs)}")
    batch, steps, width = inputs.shape
    left = given.left
    rank = left.shape[1] if left is not None and not left.is_nested and left.ndim == 3 else 1
    shapes = {
        "inputs": inputs.shape, "weight_hh": (width, width), "h0": (batch, width), "a0": (batch, width, width),
        "left": (batch, rank, width), "right": (batch, rank, width), "norm_weight": (width,), "norm_bias": (width,),
        "discounts": (steps,), "retained": (steps + 1,),
    } | dict.fromkeys(others, inputs.shape)  # fmt: skip
    for name, tensor in {**dict(zip(Given._fields[:N_GIVEN], given, strict=False)), **others}.items():
        shape, dtype = ((batch,), torch.int64) if name == "lengths" else (shapes[name], inputs.dtype)
        if tensor is None:
            continue
        fits = not tensor.is_nested and tensor.layout == torch.strided and tensor.shape == shape
        if not fits or tensor.dtype != dtype or tensor.device != inputs.device:
            raise ValueError(f"{name}: expected {dtype} of shape {tuple(shape)}, got {described(tensor)}")
    if (given.left is None) != (given.right is None) or (given.left is not None and given.a0 is not None):
        raise ValueError("a0: expected left and right together and no a0 beside them")
    if not 1 <= settings.inner_steps <= MOST_INNER_STEPS or not 0 < settings.eps < float("inf"):
        raise ValueError(f"inner_steps, eps: expected 1 to {MOST_INNER_STEPS} and a positive number, got {settings}")


def spread(grads: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients in the places of what they are wanted for, None elsewhere."""
    left = iter(grads)
    return tuple(next(left) if want else None for want in wanted)


def register(kernel: Kernel) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
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
        given, settings = Given(*arguments[:N_GIVEN]), Settings(*arguments[N_GIVEN : N_GIVEN + N_SETTINGS])
        _check(kernel, given, settings)
        given = Given._make([None if tensor is None else tensor.resolve_neg() for tensor in given])
        return kernel.forward(given, settings, *arguments[N_GIVEN + N_SETTINGS :])

    @torch.library.impl(f"{name}_backward", "default")
    def backward(*arguments: Any) -> list[Tensor]:
        given, settings = Given(*arguments[:N_GIVEN]), Settings(*arguments[N_GIVEN : N_GIVEN + N_SETTINGS])
        output, saved, grad_output, grad_written, wanted = arguments[N_GIVEN + N_SETTINGS :]
        _check(kernel, given, settings, output=output, grad_output=grad_output, grad_written=grad_written)
        absent = [want and tensor is None for tensor, want in zip(given, wanted, strict=False)]
        if len(wanted) != N_DIFFERENTIABLE or any(absent):
            raise ValueError(f"wanted: expected {N_DIFFERENTIABLE} bools, none true for an absent tensor, got {wanted}")
        given = Given._make([None if tensor is None else tensor.resolve_neg() for tensor in given])
        return differentiate(kernel, given, settings, output, saved, grad_output, grad_written, wanted)

    @torch.library.register_fake(name)
    def fake_forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings = Given(*arguments[:N_GIVEN]), Settings(*arguments[N_GIVEN : N_GIVEN + N_SETTINGS])
        keep, keep_written = arguments[N_GIVEN + N_SETTINGS :]
        output = torch.empty_like(given.inputs, memory_format=torch.contiguous_format)
        written = torch.empty_like(output) if keep_written else output.new_empty(0)
        return output, written, output.new_empty(kernel.saved_size(given, settings) if keep else 0)

    @torch.library.register_fake(f"{name}_backward")
    def fake_backward(*arguments: Any) -> list[Tensor]:
        given, wanted = arguments[:N_DIFFERENTIABLE], arguments[-1]
        return [
            torch.empty_like(tensor, memory_format=torch.contiguous_format)
            for tensor, want in zip(given, wanted, strict=True)
            if want
        ]

    operator = getattr(torch.ops.contextual_rnn, f"fast_weights_{kernel.name}").default
    backward_operator = getattr(torch.ops.contextual_rnn, f"fast_weights_{kernel.name}_backward").default

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.settings = inputs[N_GIVEN : N_GIVEN + N_SETTINGS]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:N_GIVEN], output[0], output[2])

    def derivative(ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None, _: Any) -> tuple[Any, ...]:
        *given, output, saved = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:N_DIFFERENTIABLE])
        grads = backward_operator(*given, *ctx.settings, output, saved, grad_output, grad_written, wanted)
        return (*spread(grads, wanted), *(None,) * (1 + N_SETTINGS + 2))

    torch.library.register_autograd(name, derivative, setup_context=setup_context)
    torch.library.register_autograd(f"{name}_backward", refuse_second_derivative)
    torch.library.register_vmap(name, one_by_one(operator))
    torch.library.register_vmap(f"{name}_backward", one_by_one(backward_operator))
    return operator

"""A native kernel as a PyTorch operator, `torch.ops.contextual_rnn.<name>`, which is how torch.compile calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from torch import Tensor

from contextual_rnn.ops.native.kernel import Operation, spread
from contextual_rnn.ops.native.once import refuse_second_derivative

_IN_SCHEMA = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", bool: "bool", float: "float"}


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


def _schema(fields: Any, number: int) -> str:
    """The first fields of a named tuple as an operator's schema declares them."""
    types = list(get_type_hints(fields).items())[:number]
    return ", ".join(f"{_IN_SCHEMA[kind]} {name}" for name, kind in types)


def register(operation: Operation) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Define the operator and its derivative; returns the operator."""
    n_given, n_settings, kernel = operation.n_in_operator, operation.n_settings, operation.kernel
    arguments_in_schema = f"{_schema(operation.given, n_given)}, {_schema(operation.settings, n_settings)}"
    name = f"contextual_rnn::{operation.name}"
    torch.library.define(
        name, f"({arguments_in_schema}, bool keep, bool keep_extra) -> (Tensor output, Tensor extra, Tensor saved)"
    )
    torch.library.define(
        f"{name}_backward",
        f"({arguments_in_schema}, Tensor output, Tensor saved, Tensor? grad_output, Tensor? grad_extra, "
        "bool[] wanted) -> Tensor[]",
    )

    @torch.library.impl(name, "default")
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings, (keep, keep_extra) = operation.unpack(arguments, n_given)
        operation.check(given, settings)
        return operation.run(given, settings, keep, keep_extra)

    @torch.library.impl(f"{name}_backward", "default")
    def backward(*arguments: Any) -> list[Tensor]:
        given, settings, (output, saved, grad_output, grad_extra, wanted) = operation.unpack(arguments, n_given)
        operation.check(given, settings, output=output, grad_output=grad_output, grad_extra=grad_extra)
        has_gradient = [tensor is not None and tensor.is_floating_point() for tensor in given[:n_given]]
        if len(wanted) != n_given or any(want and not has for want, has in zip(wanted, has_gradient, strict=True)):
            raise ValueError(f"wanted: expected {n_given} bools, true for tensors of floats alone, got {wanted}")
        wanted = [*wanted, *[False] * (operation.n_given - n_given)]
        return operation.differentiate(given, settings, None, output, saved, grad_output, grad_extra, wanted)

    @torch.library.register_fake(name)  # pyright: ignore[reportUntypedFunctionDecorator]
    def fake_forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        given, settings, (keep, keep_extra) = operation.unpack(arguments, n_given)
        output, extra = operation.empty(given, keep_extra)
        return output, extra, output.new_empty(kernel.saved_size(given, settings) if keep else 0)

    @torch.library.register_fake(f"{name}_backward")  # pyright: ignore[reportUntypedFunctionDecorator]
    def fake_backward(*arguments: Any) -> list[Tensor]:
        given, wanted = arguments[:n_given], arguments[-1]
        return [
            torch.empty_like(tensor, memory_format=torch.contiguous_format)
            for tensor, want in zip(given, wanted, strict=True)
            if want
        ]

    operator = getattr(torch.ops.contextual_rnn, operation.name).default
    backward_operator = getattr(torch.ops.contextual_rnn, f"{operation.name}_backward").default

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.settings = inputs[n_given : n_given + n_settings]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:n_given], output[0], output[2])

    def derivative(ctx: Any, grad_output: Tensor | None, grad_extra: Tensor | None, _: Any) -> tuple[Any, ...]:
        *given, output, saved = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:n_given])
        grads = backward_operator(*given, *ctx.settings, output, saved, grad_output, grad_extra, wanted)
        return (*spread(grads, wanted), *(None,) * (n_settings + 2))

    torch.library.register_autograd(name, derivative, setup_context=setup_context)
    torch.library.register_autograd(f"{name}_backward", refuse_second_derivative)
    torch.library.register_vmap(name, one_by_one(operator))
    torch.library.register_vmap(f"{name}_backward", one_by_one(backward_operator))
    return operator

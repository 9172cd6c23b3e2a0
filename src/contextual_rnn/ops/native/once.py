"""Hand-written derivatives have no derivative of their own, and must say so rather than miss terms."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from contextual_rnn._torch_internals import in_forward_ad


def refuse_second_derivative(*_: Any) -> NoReturn:
    """What stands where a second derivative would be."""
    raise RuntimeError("this backend can be differentiated once, not twice; pass backend='reference' for that")


def refuse_carried_derivative(*_: Any) -> NoReturn:
    """What stands where a derivative that is carried forward would be."""
    raise RuntimeError("this backend carries no derivatives forward; pass backend='reference' for that")


def differentiable_once(
    grads: tuple[Tensor | None, ...], inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of `inputs` that raise RuntimeError where they are differentiated again, by inputs or `grad_outputs`.

    So they do where one of these carries a derivative forward.

    torch's own `once_differentiable` does so only where the incoming gradient needs one; with that of a plain sum the
    second derivative would silently be without its terms.
    """
    carried = in_forward_ad()
    if not (torch.is_grad_enabled() or carried):
        return grads
    present = [tensor for tensor in (*inputs, *grad_outputs) if tensor is not None]
    anchors = [tensor for tensor in present if carried or tensor.requires_grad]
    return tuple(None if grad is None else _Once.apply(grad, *anchors) for grad in grads)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, *anchors: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> NoReturn:
        refuse_second_derivative()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
        refuse_carried_derivative()

"""The kernels of fast weights as operations of autograd and PyTorch: arguments are checked, results known."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from contextual_rnn._tensors import check_dense, described
from contextual_rnn.ops._fast_weights import cpu
from contextual_rnn.ops._fast_weights.kernel import Given, Kernel, Settings
from contextual_rnn.ops._fast_weights.options import MOST_INNER_STEPS
from contextual_rnn.ops._fast_weights.triton import launch as triton
from contextual_rnn.ops.native.kernel import Operation

KERNELS: dict[str, Kernel] = {"cpu": cpu, "triton": triton}


def _empty(given: Given, keep_written: bool) -> tuple[Tensor, Tensor]:
    output = torch.empty_like(given.inputs, memory_format=torch.contiguous_format)
    return output, torch.empty_like(output) if keep_written else output.new_empty(0)


def _check(kernel: Kernel, given: Given, settings: Settings, **others: Tensor | None) -> None:
    """Refuse what `fast_weights` refuses, since anybody may call an operator, which projects nothing."""
    inputs = given.inputs
    for name, tensor in (("inputs", inputs), ("weight_hh", given.weight_hh)):
        check_dense(name, tensor)
    if inputs.ndim != 3 or 0 in inputs.shape[1:] or not kernel.supports(inputs):
        raise ValueError(f"inputs: expected (B, T, H) for the {kernel.name} kernel, got {described(inputs)}")
    batch, steps, width = inputs.shape
    left = given.left
    rank = left.shape[1] if left is not None and not left.is_nested and left.ndim == 3 else 1
    shapes = {
        "inputs": inputs.shape, "weight_hh": (width, width), "h0": (batch, width), "a0": (batch, width, width),
        "left": (batch, rank, width), "right": (batch, rank, width), "norm_weight": (width,), "norm_bias": (width,),
        "discounts": (steps,), "retained": (steps + 1,),
    } | dict.fromkeys(others, inputs.shape)  # fmt: skip
    for name, tensor in {**given._asdict(), **others}.items():
        if tensor is None:
            continue
        shape, dtype = ((batch,), torch.int64) if name == "lengths" else (shapes[name], inputs.dtype)
        fits = not tensor.is_nested and tensor.layout == torch.strided and tensor.shape == shape
        if not fits or tensor.dtype != dtype or tensor.device != inputs.device:
            raise ValueError(f"{name}: expected {dtype} of shape {tuple(shape)}, got {described(tensor)}")
    if (given.left is None) != (given.right is None) or (given.left is not None and given.a0 is not None):
        raise ValueError("a0: expected left and right together and no a0 beside them")
    if not 1 <= settings.inner_steps <= MOST_INNER_STEPS or not 0 < settings.eps < float("inf"):
        raise ValueError(f"inner_steps, eps: expected 1 to {MOST_INNER_STEPS} and a positive number, got {settings}")


OPERATIONS = {
    name: Operation(f"fast_weights_{name}", kernel, Given, Settings, functools.partial(_check, kernel), _empty)
    for name, kernel in KERNELS.items()
}

"""The GPU kernel of the fast-weights recurrence: the attention form in Triton, forward and backward, one launch each.

One program takes some samples through all their steps: one sample where the batch is small, has an A(0) of every
sample's own or is in float64, else as many as make a product of matrices. No score is kept: the backward pass has to
read every written vector again anyway, and forms the scores anew.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from contextual_rnn.ops._fast_weights.kernel import Given, Settings

name = "triton"


def projects(weight_ih: Tensor) -> bool:
    """No: features are projected by a product before."""
    return False


WIDEST = 2048  # units: a vector of more would not stay in the registers of one program

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Known from the start, since torch.compile cannot trace the search. Triton too reads the variable when it is imported.
_INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")

# Elements of a tile that each thread holds, and 32-bit registers of a thread that matrices may take for all steps.
_TILE = 16
_RESIDENT = 64
# Samples of a program where there are so many samples at least, up to so many units. On an H200 at H = 50 forward and
# backward take 120 us of 1,024 samples either way, of 8,192 together 360 and one by one 790.
_TOGETHER = 16
_MANY = 1024
_WIDEST_TOGETHER = 256
# Products in three passes of ten bits, to the last bits of float32; without them the units for products stay idle.
_PRECISION = "ieee" if torch.version.hip else "tf32x3"


def availability() -> str:
    """Whether the kernel can run, and why not."""
    if not _INSTALLED:
        return "not available: triton is not installed"
    served = f"float16, bfloat16, float32 and float64, up to {WIDEST} units"
    if _INTERPRETED:
        return f"available (in Triton's interpreter, on a CPU too; {served})"
    if not torch.cuda.is_available():
        return "not available: no GPU that torch can use; TRITON_INTERPRET=1 runs it, slowly, on a CPU"
    return f"available (GPU; {served})"


def supports(inputs: Tensor) -> bool:
    """Whether the kernel can run on tensors like `inputs`: on a GPU, or under Triton's interpreter on a CPU."""
    device = inputs.device.type
    placed = device == "cuda" or (_INTERPRETED and device == "cpu")
    return _INSTALLED and placed and inputs.dtype in _DTYPES and inputs.shape[-1] <= WIDEST


def saved_size(given: Given, settings: Settings) -> int:
    """Elements kept for the backward pass: every query and, with layer norm, bracket and deviation."""
    batch, steps, width = given.inputs.shape
    return batch * steps * settings.inner_steps * (2 * width + 1 if settings.layer_norm else width)


def forward(given: Given, settings: Settings, keep: bool, keep_written: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernel.forward` of native/kernel.py; O(B T (T + H) H) time, O(B T H) memory to go back.

    float16 and bfloat16 are summed in float32; what is stored, the written vectors among it, is rounded to them.
    """
    inputs = given.inputs
    batch, _, width = inputs.shape
    # Beyond a sequence's end nothing is computed, and what stands there must be zero.
    new = inputs.new_empty if given.lengths is None else inputs.new_zeros
    output = new(inputs.shape)
    written = new(inputs.shape) if settings.write_before_read else output
    saved = new(saved_size(given, settings) if keep else 0)
    queries, normed, deviations = _parts(saved, given, settings) if keep else (None, None, None)
    options = _options(given, settings)
    if queries is None and given.a0 is not None and not options["RESIDENT"]:
        queries = inputs.new_empty(batch, settings.inner_steps, width)
    _launch(
        "forward", given, inputs.contiguous(), given.weight_hh.contiguous(), given.h0.contiguous(),
        *_constants(given, settings), output, written, queries, normed, deviations,
        KEEP=keep, EPS=settings.eps, **options,
    )  # fmt: skip
    if keep_written:
        return output, output.clone() if written is output else written, saved
    return output, output.new_empty(0), saved


def backward(
    given: Given,
    settings: Settings,
    output: Tensor,
    saved: Tensor,
    grad_output: Tensor | None,
    grad_written: Tensor | None,
    wanted: list[bool],
) -> list[Tensor]:
    """As `Kernel.backward` of native/kernel.py; torch sums over samples, in the same order every time."""
    batch, steps, width = output.shape
    queries, normed, deviations = _parts(saved, given, settings)
    dtype = torch.float64 if output.dtype == torch.float64 else torch.float32
    like: dict[str, Any] = {"dtype": dtype, "device": output.device}
    new = torch.empty if given.lengths is None else torch.zeros

    # The written are the outputs unless they are written before the read: then one gradient is that of both.
    outer = [grad_written] if settings.write_before_read else [grad_output, grad_written]
    d_written = torch.zeros(batch, steps, width, **like)
    for grad in outer:
        if grad is not None:
            d_written += grad
    d_output = None
    if settings.write_before_read:
        d_output = torch.zeros_like(output) if grad_output is None else grad_output.contiguous()
    has_a0 = given.a0 is not None or given.left is not None
    d_inputs = new(batch, steps, width, dtype=output.dtype, device=output.device)
    d_h0 = torch.empty(batch, width, **like)
    d_brackets = new(batch, steps, settings.inner_steps, width, **like) if has_a0 else None
    options = _options(given, settings)
    programs = -(-batch // options["BLOCK_B"])
    d_gain = torch.empty(programs, width, **like) if wanted[6] else None
    d_shift = torch.empty(programs, width, **like) if wanted[7] else None
    d_discounts = torch.zeros(batch, steps, **like) if wanted[8] else None
    d_retained = torch.zeros(batch, steps + 1, **like) if wanted[9] else None
    _launch(
        "backward", given, given.weight_hh.contiguous(), *_constants(given, settings),
        output.contiguous(), queries, normed, deviations, d_output, d_written, d_inputs, d_h0,
        d_brackets, d_gain, d_shift, d_discounts, d_retained,
        **options,
    )  # fmt: skip

    grads: list[Tensor | None] = [d_inputs, None, d_h0, None, None, None, d_gain, d_shift, d_discounts, d_retained]
    grads[6:] = [None if grad is None else grad.sum(0) for grad in grads[6:]]
    if wanted[1]:
        previous = torch.cat([given.h0[:, None], output[:, :-1]], dim=1)
        grads[1] = d_inputs.reshape(-1, width).t() @ previous.reshape(-1, width)
    if d_brackets is not None and any(wanted[3:6]):
        early = int(settings.write_before_read)
        retained = given.retained[early : early + steps].to(dtype)
        scaled = (d_brackets * retained[:, None, None]).flatten(1, 2)
        queries = queries.to(dtype).flatten(1, 2)
        if wanted[3]:
            grads[3] = torch.bmm(scaled.mT, queries)
        if wanted[4] and given.right is not None:
            grads[4] = torch.bmm(torch.bmm(given.right.to(dtype), queries.mT), scaled)
        if wanted[5] and given.left is not None:
            grads[5] = torch.bmm(torch.bmm(given.left.to(dtype), scaled.mT), queries)
    return [grad.to(output.dtype) for grad, want in zip(grads, wanted, strict=False) if want and grad is not None]


def _parts(saved: Tensor, given: Given, settings: Settings) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Views of what is kept: queries and normed (B, T, S, H), deviations (B, T, S)."""
    batch, steps, width = given.inputs.shape
    shape = (batch, steps, settings.inner_steps, width)
    size = batch * steps * settings.inner_steps * width
    if not settings.layer_norm:
        return saved.view(shape), None, None
    return saved[:size].view(shape), saved[size : 2 * size].view(shape), saved[2 * size :].view(shape[:-1])


def _constants(given: Given, settings: Settings) -> list[Tensor | None]:
    """What both passes read of `given`, from a0 to the lengths."""
    a0 = given.a0
    if a0 is not None and settings.shared_a0:
        a0 = a0[:1]
    return [None if tensor is None else tensor.contiguous() for tensor in (a0, *given[4:11])]


def _options(given: Given, settings: Settings) -> dict[str, Any]:
    """What the programs are compiled for, number of warps included."""
    batch, steps, width = given.inputs.shape
    block = max(16, _power_of_two(width))
    double = given.inputs.dtype == torch.float64
    own_a0 = given.a0 is not None and not settings.shared_a0
    together = batch >= _MANY and block <= _WIDEST_TOGETHER and not double and not own_a0
    samples = _TOGETHER if together else 1
    warps = 4 if block <= 64 else 8 if block <= 512 else 16
    threads, words = 32 * warps, 2 if double else 1
    matrices = 1 if given.a0 is None else 2
    return {
        "S": settings.inner_steps,
        "RANK": 0 if given.left is None else given.left.shape[1],
        "WIDTH": width,
        "EARLY": settings.write_before_read,
        "LAYER_NORM": settings.layer_norm,
        "SHARED_A0": settings.shared_a0,
        "BLOCK_B": samples,
        "BLOCK_H": block,
        # A tile of more than a quarter of all steps is empty for the most part.
        "BLOCK_T": max(1, min(_TILE * threads // (words * samples * block), _power_of_two(steps) // 4)),
        # At least 8 columns: 32 bytes, the least that a GPU fetches.
        "BLOCK_K": 16 if together else max(8, 2 * _TILE * threads // (words * block)),
        # Half as much where shared memory too has to hold them, for a product.
        "RESIDENT": matrices * block * block * words <= _RESIDENT * threads // (2 if together else 1),
        "PRECISION": _PRECISION if together else None,
        "num_warps": warps,
    }


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


@functools.cache
def _programs() -> dict[str, Any]:
    """The programs and the types that they sum in; their modules import triton, so they are not imported with this."""
    import triton.language as tl

    from contextual_rnn.ops._fast_weights.triton import backward as triton_backward
    from contextual_rnn.ops._fast_weights.triton import forward as triton_forward

    programs = {"forward": triton_forward.forward, "backward": triton_backward.backward}
    return programs | {"float32": tl.float32, "float64": tl.float64}


def _launch(program: str, given: Given, *tensors: Tensor | None, **options: Any) -> None:
    """Run as many programs as take all samples."""
    batch, steps, _ = given.inputs.shape
    if batch == 0:
        return
    programs = _programs()
    acc = programs["float64" if given.inputs.dtype == torch.float64 else "float32"]
    # One stage: loads that the compiler moves ahead of a barrier, to hide their latency, would miss what is stored.
    options |= {"ACC": acc, "num_stages": 1, "enable_fp_fusion": True}
    with torch.cuda.device_of(given.inputs):
        programs[program][(-(-batch // options["BLOCK_B"]),)](*tensors, batch, steps, **options)

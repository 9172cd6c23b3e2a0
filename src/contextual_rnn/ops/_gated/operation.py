"""The kernel as an operation of autograd and PyTorch: its arguments are checked, its results known."""

from __future__ import annotations

import torch
from torch import Tensor

from contextual_rnn._tensors import check_dense, described
from contextual_rnn.ops._gated import cpu
from contextual_rnn.ops._gated.kernel import CELLS, Given, Settings
from contextual_rnn.ops.native.kernel import Operation


def _empty(given: Given, keep_final: bool) -> tuple[Tensor, Tensor]:
    return cpu.output_like(given), cpu.final_like(given)


def _check(given: Given, settings: Settings, **others: Tensor | None) -> None:
    """Refuse what would have the kernel read or write elsewhere, since anybody may call an operator."""
    check_tensors(given, settings, **others)
    _check_table(given.table, *given.inputs.shape[:2])


def check_tensors(given: Given, settings: Settings, **others: Tensor | None) -> None:
    """Refuse tensors that do not fit each other; the values in the table are not looked at."""
    inputs = given.inputs
    if not 0 <= settings.cell < len(CELLS):
        raise ValueError(f"cell: expected 0 to {len(CELLS) - 1}, got {settings.cell}")
    for name in ("inputs", "weight_ih", "weight_hh", "h0", "table"):
        check_dense(name, getattr(given, name))
    if inputs.ndim != 3 or not inputs.shape[2] or not cpu.supports(inputs):
        raise ValueError(f"inputs: expected (B, T, I) of float32 or float64 on a CPU, got {described(inputs)}")
    for name, axes in (("weight_hh", 2), ("h0", 3), ("table", 2)):
        if getattr(given, name).ndim != axes:
            raise ValueError(f"{name}: expected {axes} axes, got {described(getattr(given, name))}")
    mode, (batch, steps, size) = settings.mode, inputs.shape
    rows, output, segments = *given.weight_hh.shape, given.h0.shape[1]
    width = rows // CELLS[mode]
    if not rows or rows % CELLS[mode] or (given.weight_hr is None and output != width):
        raise ValueError(f"weight_hh: expected ({CELLS[mode]} H, H) of mode {mode}, got {tuple(given.weight_hh.shape)}")
    if (given.c0 is None) != (mode != "LSTM") or (given.weight_hr is not None and mode != "LSTM"):
        raise ValueError(f"c0, weight_hr: expected c0 for an LSTM alone, and weight_hr for no other, got {mode}")
    if (given.bias_ih is None) != (given.bias_hh is None):
        raise ValueError("bias_ih, bias_hh: expected both or none")
    final = (1, batch, output + (0 if given.c0 is None else width))
    shapes = {
        "inputs": inputs.shape, "weight_ih": (rows, size), "weight_hh": (rows, output), "h0": (1, segments, output),
        "c0": (1, segments, width), "bias_ih": (rows,), "bias_hh": (rows,), "weight_hr": (output, width),
        "table": (4, segments), "output": (batch, steps, output), "grad_output": (batch, steps, output),
        "grad_extra": final,
    }  # fmt: skip
    for name, tensor in {**given._asdict(), **others}.items():
        if tensor is None:
            continue
        dtype = torch.int64 if name == "table" else inputs.dtype
        fits = not tensor.is_nested and tensor.layout == torch.strided and tensor.shape == shapes[name]
        if not fits or tensor.dtype != dtype or not tensor.is_cpu:
            raise ValueError(f"{name}: expected {dtype} of shape {tuple(shapes[name])}, got {described(tensor)}")


def _check_table(table: Tensor, batch: int, steps: int) -> None:
    """Refuse segments outside (batch, steps), and rows with other than one last segment."""
    row, start, length, last = table
    inside = (row >= 0) & (row < batch) & (start >= 0) & (length >= 0) & (start <= steps - length)
    if not bool((inside & (last >= 0) & (last <= 1)).all()):
        raise ValueError(f"table: expected segments within {batch} rows of {steps} steps, got others")
    begins = (row * steps + start)[length > 0]
    by_place = begins.argsort()
    if bool((begins[by_place].diff() < length[length > 0][by_place][:-1]).any()):
        raise ValueError("table: expected segments that do not overlap, got two at one step of a row")
    if not torch.equal(row[last == 1].sort().values, torch.arange(batch, device="cpu")):
        raise ValueError("table: expected one last segment in each row")


OPERATION = Operation("gated_cpu", cpu, Given, Settings, _check, _empty)

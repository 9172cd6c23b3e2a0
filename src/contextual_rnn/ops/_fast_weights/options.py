"""The options of the fast-weights recurrence, and the tables of decay that every backend reads."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contextual_rnn._tensors import check_floats, described
from contextual_rnn._timing import TIMINGS as TIMINGS
from contextual_rnn._timing import Timing as Timing
from contextual_rnn._torch_internals import dispatch_mode, exportable, transforms

MOST_INNER_STEPS = 1000  # far beyond use; sizes of memory are products with it


@exportable
class LowRank(NamedTuple):
    """Fast weights A = left^T right given by r pairs of vectors, so that A v = sum_i left_i (right_i . v).

    Shapes: left and right (B, r, H). With left equal to right this is r virtual memories, as if r vectors had
    been written before the first step.
    """

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """The matrix itself, (B, H, H). TypeError or ValueError for factors that are not of one shape and dtype."""
        try:
            return self.left.transpose(1, 2) @ self.right  # which the older ONNX exporter knows, unlike mT
        except Exception:
            check_floats("left", self.left)
            check_floats("right", self.right)
            if (self.left.shape, self.left.dtype) != (self.right.shape, self.right.dtype) or self.left.ndim != 3:
                received = f"{described(self.left)}, {described(self.right)}"
                raise ValueError(f"left, right: expected one dtype and shape (batch, r, H), got {received}") from None
            raise


class FastWeightsOptions(NamedTuple):
    inner_steps: int
    decay: float | Tensor
    rate: float | Tensor
    layer_norm: bool
    timing: Timing
    eps: float
    return_fast_weights: bool


Key = tuple[float | Tensor, float | Tensor, int, torch.dtype, torch.device]
Tables = tuple[Tensor, Tensor]


def decay_tables(options: FastWeightsOptions, steps: int, like: Tensor) -> Tables:
    """How much of a written vector is left: rate * decay^age, (T,), by age 0..T-1, and decay^count, (T + 1,).

    A read after `count` writes sees A(0) times the second at `count` and every written pair times the first at its
    age. Gradients of decay and rate, where they are tensors, come through these tables.
    """
    key: Key = options.decay, options.rate, steps, like.dtype, like.device
    learned = isinstance(options.decay, Tensor) or isinstance(options.rate, Tensor)
    # A mode such as FakeTensorMode, or a transform of torch.func, makes tensors that are good for it alone.
    if learned or torch.compiler.is_compiling() or dispatch_mode() is not None or transforms() is not None:
        return _tables(*key)
    held = _HELD.get()
    if held is not None and key in held:
        return held[key]
    if _is_capturing(like):
        return _tables(*key)  # a CUDA graph keeps what is made in it; what others made may be gone at its next replay
    tables = _cached_tables(*key)
    if held is not None:
        held[key] = tables
    return tables


def _is_capturing(like: Tensor) -> bool:
    return like.is_cuda and torch.cuda.is_current_stream_capturing()


_HELD: ContextVar[dict[Key, Tables] | None] = ContextVar("tables of decay that calls hold", default=None)


@contextmanager
def holding_tables() -> Generator[dict[Key, Tables], None, None]:
    """The tables that calls inside read, each made once.

    A captured graph reads them by address at every replay: whoever keeps the graph keeps this dict too. It begins
    before the capture, with calls that fill it.
    """
    held: dict[Key, Tables] = {}
    token = _HELD.set(held)
    try:
        yield held
    finally:
        _HELD.reset(token)


def _tables(
    decay: float | Tensor, rate: float | Tensor, steps: int, dtype: torch.dtype, device: torch.device
) -> Tables:
    powers = decay ** torch.arange(steps + 1, dtype=torch.float64, device=device)
    return (rate * powers[:steps]).to(dtype), powers.to(dtype)


@functools.lru_cache(maxsize=64)
def _cached_tables(*key: Any) -> Tables:
    with torch.inference_mode(False), torch.no_grad():
        return _tables(*key)

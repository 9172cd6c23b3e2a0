"""Which backend of fast weights serves a call."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from contextual_rnn._numbers import shortened
from contextual_rnn._torch_internals import dispatch_mode, in_forward_ad, is_tracing, transforms
from contextual_rnn.ops._fast_weights.attention import attention
from contextual_rnn.ops._fast_weights.backend import backend_of
from contextual_rnn.ops._fast_weights.operation import KERNELS
from contextual_rnn.ops._fast_weights.reference import reference

FastWeightsBackend = Literal["auto", "reference", "attention", "cpu", "triton"]
BACKENDS = {"reference": reference, "attention": attention} | {name: backend_of(name) for name in KERNELS}
ENVIRONMENT = "CONTEXTUAL_RNN_BACKEND"


def choose(backend: str, like: Tensor) -> str:
    """The backend that serves tensors such as `like`, of H in their last axis; ValueError for one that does not."""
    check_backend(backend)
    name = _automatic(like) if backend == "auto" else backend
    if name == "reference" or (where := _where_not(name)) is None:
        return name
    if backend != "auto":
        raise ValueError(f"backend: expected auto or reference {where}, got {backend!r}")
    return "reference"


def _where_not(backend: str) -> str | None:
    """Where the call stands, if that is where no backend but the reference can serve."""
    if is_tracing():
        return "under torch.jit.trace"  # the others leave no operators behind that it could see
    if torch.compiler.is_compiling():
        return None
    if in_forward_ad():
        return "where derivatives are carried forward"
    if transforms() is None:
        return None
    if dispatch_mode() is not None:  # it sees the operator, whose derivative torch.func does not see
        return "under torch.func beside a TorchDispatchMode"
    return "under torch.func" if backend == "attention" else None


def _automatic(like: Tensor) -> str:
    if named := os.environ.get(ENVIRONMENT):
        if named not in ("auto", *BACKENDS):
            raise ValueError(f"{ENVIRONMENT}: expected one of auto, {', '.join(BACKENDS)}, got {named!r}")
        if named != "auto":
            return named
    if torch.compiler.is_exporting():
        return "reference"  # of PyTorch's own operators alone, so that what is exported runs anywhere
    if KERNELS["cpu"].supports(like):
        return "cpu"
    # Not on a CPU, where it runs in an interpreter.
    if like.is_cuda and KERNELS["triton"].supports(like):
        return "triton"
    if torch.compiler.is_compiling():
        return "reference"  # attention's hand-written derivative cannot be traced
    return "attention"


def check_backend(backend: str) -> None:
    """Refuse a backend that there is not."""
    if not isinstance(backend, str) or (backend != "auto" and backend not in BACKENDS):
        raise ValueError(f"backend: expected one of auto, {', '.join(BACKENDS)}, got {shortened(backend)}")

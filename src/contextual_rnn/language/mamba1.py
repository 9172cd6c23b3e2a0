"""Mamba-1, whose scan over a whole sequence begins from zeros whatever the cache holds: the start's share is added.

The recurrence is linear in its state: with decays d(t) and readout C(t),

    S(t) = d(t) S(t-1) + u(t)        y(t) = C(t) S(t)

a start S(0) adds d(t) ... d(1) S(0) to S(t), and C(t) times that to y(t). Both are exact.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn._torch_internals import forward_pre_hooks
from contextual_rnn.language.calls import cache_of

SCAN = "mamba_selective_scan"
# The starts of the mixer that runs now, one for each call of its scan.
_starts: ContextVar[list[Tensor] | None] = ContextVar("starts", default=None)


def add_shares(base: PreTrainedModel) -> None:
    """Let every Mamba-1 mixer of `base` begin its whole runs from what the cache holds."""
    for mixer in base.modules():
        module = sys.modules[type(mixer).__module__]
        if not hasattr(module, SCAN) or not hasattr(mixer, "layer_idx") or not hasattr(mixer, "A_log"):
            continue
        scan = getattr(module, SCAN)
        if not hasattr(scan, "begins_from_starts"):
            setattr(module, SCAN, from_starts(scan))
        if all(hook is not _begin for hook in forward_pre_hooks(mixer)):
            mixer.register_forward_pre_hook(_begin, with_kwargs=True)
            mixer.register_forward_hook(_end, always_call=True)


def _begin(mixer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    cache, inputs = cache_of(kwargs), kwargs.get("hidden_states", args[0] if args else None)
    start = None
    if cache is not None and inputs is not None and inputs.shape[1] > 1:
        start = cache.get_recurrent_state(mixer.layer_idx)  # pyright: ignore[reportArgumentType]
    # Zamba has a scan for each head.
    _starts.set(None if start is None else list(start.unbind(1)) if start.ndim == 4 else [start])


def _end(*_: Any) -> None:
    _starts.set(None)


def from_starts(scan: Callable[..., Any]) -> Callable[..., Any]:
    """`scan`, and the share of the start that the mixer around it has, if any."""

    @functools.wraps(scan)
    def scan_from_starts(hidden_states: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, **options: Any) -> Any:  # noqa: N803
        result = scan(hidden_states, dt, A, B, C, **options)
        starts = _starts.get()
        if not starts:
            return result
        bias, gate = options.get("delta_bias"), options.get("z")
        step = dt if bias is None else dt + bias.to(dt.dtype)[..., None]
        step = F.softplus(step) if options.get("delta_softplus") else step
        logarithms = step.float().cumsum(-1)[..., None] * A[:, None]  # of the decays since the start, (B, I, T, N)
        left = logarithms.exp() * starts.pop(0).float()[:, :, None]
        share = torch.einsum("bitn,bnt->bit", left, C.float())
        share = share if gate is None else share * F.silu(gate)
        if not options.get("return_last_state"):
            return (result + share).to(result.dtype)
        output, last = result
        return (output + share).to(output.dtype), last + left[:, :, -1].to(last.dtype)

    scan_from_starts.begins_from_starts = True  # pyright: ignore[reportAttributeAccessIssue]
    return scan_from_starts

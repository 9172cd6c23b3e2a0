"""What a network with fast weights takes: the state (h, A) in each of its forms, and inputs."""

from __future__ import annotations

from torch import Tensor

from contextual_rnn._autocast import in_autocast
from contextual_rnn._tensors import check_dense
from contextual_rnn.ops._fast_weights.dispatch import check_a0
from contextual_rnn.ops._fast_weights.options import LowRank
from contextual_rnn.spec.tree import State, describe_state


def split_state(hx: State | None) -> tuple[Tensor | None, Tensor | LowRank | None]:
    """h0 and a0 of what the network takes as hx. Raises TypeError for anything else."""
    if hx is None:
        return None, None
    if isinstance(hx, Tensor):
        check_dense("hx", hx)
        return hx, None
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise TypeError(f"hx: expected h0 or (h0, a0), got {describe_state(hx)}")
    h0, a0 = hx
    for tensor in (h0, *(a0 if isinstance(a0, LowRank) else [a0])):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"hx: expected tensors, LowRank or None as (h0, a0), got {describe_state(hx)}")
        check_dense("hx", tensor)
    return h0, a0


def check_batch(hx: State) -> None:
    """Refuse a state of a batch whose A does not fit its h; under autocast their dtypes may differ."""
    h, a = split_state(hx)
    if h is None or in_autocast(h.device):
        return
    check_a0(a, h.shape[0], h.shape[1], h)


def unsqueeze_state(hx: State | None) -> State | None:
    """The state of one example as that of a batch of one."""
    h0, a0 = split_state(hx)
    if isinstance(a0, LowRank):
        a0 = LowRank(a0.left[None], a0.right[None])
    elif a0 is not None:
        a0 = a0[None]
    return None if h0 is None else h0[None], a0


def check_input(inputs: Tensor, weight: Tensor) -> None:
    """Refuse inputs of another width, dtype or device than the weights."""
    check_dense("input", inputs)
    width = inputs.shape[-1] if inputs.ndim else 0
    if width != weight.shape[1]:
        raise ValueError(f"input: expected width {weight.shape[1]}, got {width}")
    autocast = in_autocast(weight.device) and inputs.is_floating_point()
    if inputs.device != weight.device or (inputs.dtype != weight.dtype and not autocast):
        raise ValueError(f"input: expected {weight.dtype} on {weight.device}, got {inputs.dtype} on {inputs.device}")

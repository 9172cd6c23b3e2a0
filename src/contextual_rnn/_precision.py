"""Float32 at least, where a narrower float would lose too many digits."""

from __future__ import annotations

import torch
from torch import Tensor

_NARROW = (torch.float16, torch.bfloat16)


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether floats of this dtype have fewer bits than float32."""
    return dtype in _NARROW


def wide(tensor: Tensor) -> Tensor:
    """`tensor` in float32 if its floats are narrower: for sums, differences of close numbers and densities."""
    return tensor.float() if tensor.dtype in _NARROW else tensor

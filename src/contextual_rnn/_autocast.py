"""Whether autocast chooses the dtypes."""

from __future__ import annotations

import torch


def in_autocast(device: torch.device) -> bool:
    """Whether autocast is on there; False on devices without it, such as meta."""
    kind = device.type
    known = kind in ("cpu", "cuda")  # not asked for, as torch.compile cannot trace the question in every version
    return (known or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)

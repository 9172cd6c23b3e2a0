"""Whether dtypes are autocast's to choose."""

from __future__ import annotations

import torch


def in_autocast(device: torch.device) -> bool:
    """Whether autocast is on there; False on devices without it, such as meta."""
    kind = device.type
    return (kind == "cpu" or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)

"""Whether dtypes are autocast's to choose."""

from __future__ import annotations

import torch


def in_autocast(device: torch.device) -> bool:
    """Whether autocast is on there; False on devices without it, such as meta."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)

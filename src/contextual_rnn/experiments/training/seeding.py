"""Seeds of a run."""

from __future__ import annotations

import hashlib

import torch


def seed_for(*key: str | int) -> int:
    """A seed that is a function of `key` alone; other keys give independent streams."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def generator_for(*key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of `seed_for` the key; of one seed a GPU draws other numbers than a CPU."""
    return torch.Generator(device).manual_seed(seed_for(*key))

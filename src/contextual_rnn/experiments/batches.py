"""Random numbers as pure functions of a key: batch k of a run depends on (seed, k) and on nothing before it."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def seed_for(*key: str | int) -> int:
    """A seed that is a function of `key` alone; other keys give independent streams."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def generator_for(*key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of `seed_for` the key; of one seed a GPU draws other numbers than a CPU."""
    return torch.Generator(device).manual_seed(seed_for(*key))


class Batches:
    """The batches of a run in the order in which it sees them; every epoch is a fresh permutation of `data`.

    The order is drawn on the CPU: it is the same on every device.
    """

    def __init__(self, seed: int, data: tuple[Tensor, ...], batch_size: int):
        self.seed, self.data, self.batch_size = seed, data, batch_size
        self.per_epoch = math.ceil(len(data[0]) / batch_size)
        self._epoch: int | None = None
        self._in_order = data

    def __getitem__(self, k: int) -> tuple[Tensor, ...]:
        """Batch k, counted from 0 over all epochs; a pure function of (seed, k)."""
        epoch, position = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            order = torch.randperm(
                len(self.data[0]), generator=generator_for("batches", self.seed, epoch), device="cpu"
            )
            # Once an epoch: a batch is then a slice, which copies nothing.
            order = order.to(self.data[0].device)
            self._in_order, self._epoch = tuple(tensor[order] for tensor in self.data), epoch
        rows = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return tuple(tensor[rows] for tensor in self._in_order)

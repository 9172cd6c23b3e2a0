"""Random numbers as pure functions of a key: batch k of a run depends on (seed, k) and on nothing before it."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def generator_for(*key: str | int) -> torch.Generator:
    """A CPU generator seeded from `key` alone; other keys give independent streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class Batches:
    """The order in which a run sees its `num_samples` training examples; every epoch is a fresh permutation."""

    def __init__(self, seed: int, num_samples: int, batch_size: int):
        self.seed, self.num_samples, self.batch_size = seed, num_samples, batch_size
        self.per_epoch = math.ceil(num_samples / batch_size)
        self._epoch: int | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, k: int) -> Tensor:
        """Indices of batch k, counted from 0 over all epochs; a pure function of (seed, k)."""
        epoch, position = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            self._order = torch.randperm(self.num_samples, generator=generator_for("batches", self.seed, epoch))
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

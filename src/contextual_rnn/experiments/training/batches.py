"""Random numbers as pure functions of a key: batch k of a run depends on (seed, k) and on nothing before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from contextual_rnn.experiments.training.seeding import generator_for


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
            generator = generator_for("batches", self.seed, epoch)
            order = torch.randperm(len(self.data[0]), generator=generator, device="cpu")
            # Once an epoch: a batch is then a slice, which copies nothing.
            order = order.to(self.data[0].device)
            self._in_order, self._epoch = tuple(tensor[order] for tensor in self.data), epoch
        rows = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return tuple(tensor[rows] for tensor in self._in_order)

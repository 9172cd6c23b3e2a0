"""One run on several processes: each takes its share of every batch, and the gradients are summed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from contextual_rnn.spec.tree import State
from contextual_rnn.states import InitialState


@dataclass(frozen=True)
class Group:
    """The `size` processes that train one run, of which this is number `rank`; process 0 alone reads and writes files.

    All have equal weights at all times: they start from the same weights and take the same steps.
    """

    rank: int = 0
    size: int = 1

    def rows(self, batch_size: int) -> slice | None:
        """The rows of a batch that are this process's; None where it has all of them. Shares differ by one at most."""
        if self.size == 1:
            return None
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> None:
        """Sum `tensor` over the processes, in place and to the same bits on each."""
        if self.size > 1:
            distributed.all_reduce(tensor)

    def broadcast(self, value: Any = None) -> Any:
        """The `value` of process 0, in every process; the values of the others are ignored."""
        if self.size == 1:
            return value
        message = [value]
        distributed.broadcast_object_list(message)
        return message[0]


ALONE = Group()


@contextlib.contextmanager
def started_by_torchrun() -> Generator[Group]:
    """The group of processes that torchrun has started, this one alone without it.

    Raises RuntimeError where they cannot find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    distributed.init_process_group()  # gloo for what is on a CPU, NCCL for what is on a GPU
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def states_of_share(state: InitialState, context: Tensor, rows: slice, generator: torch.Generator | None) -> State:
    """The initial states of `rows` of a batch; all are drawn, so that they are the same in however many processes."""
    whole = state(context, len(context), generator=generator)
    return state.spec.pack({name: leaf[rows] for name, leaf in state.spec.unpack(whole, "state").items()})

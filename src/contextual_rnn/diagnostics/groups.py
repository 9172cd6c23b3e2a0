"""Permutations of states between groups of sequences that are not independent of each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._entries import entries_of
from contextual_rnn._numbers import shortened


def orders(groups: Any, batch: int, permutations: int, seed: int) -> tuple[int, Iterator[Tensor]]:
    """The number of groups, and for each permutation of them whose state every sequence gets, (batch,).

    The sequences of a group get the states of one other group in their order; those of a longer or shorter one are
    spread evenly over them. Without `groups` every sequence is one. Raises ValueError for another number of them than
    of sequences and for fewer than two different ones, TypeError for what is no list.
    """
    group_of = torch.arange(batch, device="cpu") if groups is None else _codes(groups, batch)
    members = torch.argsort(group_of, stable=True)
    sizes = torch.bincount(group_of)
    first = sizes.cumsum(0) - sizes
    place = torch.empty_like(members)
    place[members] = torch.arange(batch, device="cpu") - first[group_of[members]]
    generator = torch.Generator().manual_seed(seed)

    def permuted() -> Iterator[Tensor]:
        for _ in range(permutations):
            other = torch.randperm(len(sizes), generator=generator, device="cpu")[group_of]
            yield members[first[other] + place * sizes[other] // sizes[group_of]]

    return len(sizes), permuted()


def _codes(groups: Any, batch: int) -> Tensor:
    names = entries_of("groups", groups, "a group for each sequence")
    if len(names) != batch:
        raise ValueError(f"groups: expected one for each of {batch} sequences, got {len(names)}")
    try:
        index = {name: place for place, name in enumerate(dict.fromkeys(names))}
    except TypeError:
        raise TypeError(f"groups: expected numbers or names, got {shortened(names)}") from None
    if len(index) < 2:
        raise ValueError(f"groups: expected at least two different ones, got {len(index)}")
    return torch.tensor([index[name] for name in names], device="cpu")

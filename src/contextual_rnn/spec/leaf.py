"""One tensor of a state: its shape, layout, numbers and domain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import (
    check_dtype,
    check_elements,
    check_flag,
    check_held,
    check_number,
    check_size,
    shortened,
)
from contextual_rnn.spec.domains import DOMAINS, DomainName

# Names that a leaf's own parameter, buffer or submodule could not have.
_TAKEN = {
    "self",
    "network",
    "reset_parameters",
    "_start",
    "_factors",
    "_hooked",
    "_tiled",
    "_untiled",
    *dir(nn.ModuleDict()),
    *dir(nn.ParameterDict()),
}


@dataclass(frozen=True)
class Leaf:
    """One tensor of a state.

    `shape` is that of one example, without the batch axis; `batch_dim` is where the network wants the batch axis.
    `repeat` > 1 says that the first axis is of size 1 here and repeated that often for the network (one state shared
    by all layers and directions). `factor` marks one of two tensors that are multiplied together: were both zero,
    neither would get a gradient, so a factor never starts at zero. `tiled_in_place` says that the network reads a
    state tiled over the batch without copies, so none are made. `dtype` is what the network receives for this leaf,
    whatever the parameters of an initial state are moved to; None: the dtype of the network. A leaf of a dtype without
    floats, such as a counter, is a constant in every initial state. `start` is the number that the network itself
    starts from, where that is not zero: what a state starts as, and what zero means in `zero_init` and `diagnose`.

    `domain` is the name of a domain that the numbers of this leaf never leave, as in torch.distributions.constraints.
    Initial states learn, add, average and draw real numbers u, which stand for the leaf:

        "positive":       leaf = log(1 + exp(u))           softplus
        "unit_interval":  leaf = 1 / (1 + exp(-u))         sigmoid

    Whatever is a state of the network stays a state of it: what initial states return, a `value` that they get, `start`
    and files of final states. A `start` may be a limit, 0 or 1, which no u stands for: then a constant state has it,
    and a learned one must start from another value.

    Raises TypeError or ValueError for a name that no attribute of a module can have, a shape that is not a tuple of
    positive ints, a batch_dim outside it, a repeat of a first axis that is not 1, flags that are not True or False, a
    dtype that is none or quantised, a domain that is unknown, of a factor or of numbers that are no real floats, and a
    start outside the domain.
    """

    name: str
    shape: tuple[int, ...]
    batch_dim: int = 0
    repeat: int = 1
    factor: bool = False
    tiled_in_place: bool = False
    dtype: torch.dtype | None = None
    start: float = 0.0
    domain: DomainName | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected an identifier, such as h, got {shortened(self.name)}")
        if not self.name.isidentifier() or self.name in _TAKEN:
            raise ValueError(f"name: expected an identifier that modules do not use, such as h, got {self.name!r}")
        if not isinstance(self.shape, tuple):
            raise TypeError(f"shape: expected a tuple of positive ints, got {shortened(self.shape)}")
        if not self.shape:
            raise ValueError("shape: expected at least one axis, got ()")
        object.__setattr__(self, "shape", tuple(check_size("shape", size) for size in self.shape))
        object.__setattr__(self, "batch_dim", check_size("batch_dim", self.batch_dim, 0))
        if self.batch_dim > len(self.shape):
            raise ValueError(f"batch_dim: expected 0 to {len(self.shape)}, got {self.batch_dim}")
        object.__setattr__(self, "repeat", check_size("repeat", self.repeat))
        if self.repeat > 1 and self.shape[0] != 1:
            raise ValueError(f"repeat: expected 1 for a first axis of {self.shape[0]}, got {self.repeat}")
        check_elements(shape=self.numel, repeat=self.repeat)
        check_flag("factor", self.factor)
        check_flag("tiled_in_place", self.tiled_in_place)
        check_dtype(self.dtype)
        object.__setattr__(self, "start", check_number("start", self.start))
        if self.dtype is not None:
            check_held("start", self.start, self.dtype)
            if self.dtype.is_complex and self.start:
                raise ValueError(f"start: expected 0 for a leaf of {self.dtype}, got {self.start}")
        self._check_domain()

    def _check_domain(self) -> None:
        if self.domain is None:
            return
        if not isinstance(self.domain, str) or self.domain not in DOMAINS:
            raise ValueError(f"domain: expected None or one of {', '.join(DOMAINS)}, got {shortened(self.domain)}")
        if self.factor:
            raise ValueError(f"domain: expected None for a factor, got {self.domain!r}")
        if self.dtype is not None and not self.dtype.is_floating_point:
            raise ValueError(f"domain: expected None for a leaf of {self.dtype}, got {self.domain!r}")
        if not (domain := DOMAINS[self.domain]).has(self.start, limits=True):
            raise ValueError(f"start: expected one of the {domain.words} of domain {self.domain!r}, got {self.start}")

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def network_shape(self) -> tuple[int, ...]:
        """The shape of one example as the network takes it."""
        return (self.repeat, *self.shape[1:]) if self.repeat > 1 else self.shape

    @property
    def shape_text(self) -> str:
        one = self.network_shape
        batched = (*map(str, one[: self.batch_dim]), "batch", *map(str, one[self.batch_dim :]))
        return f"({', '.join(batched)}) or {one} without a batch"


def rows_of(leaf: Leaf, tensor: Tensor) -> int | None:
    """The rows B of a tensor (B, *shape); None for `shape`."""
    return tensor.shape[0] if tensor.ndim > len(leaf.shape) else None

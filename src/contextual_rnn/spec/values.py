"""The numbers of leaves: what a state starts from, and domains that they never leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from numbers import Real

import torch
from torch import Tensor

from contextual_rnn._numbers import check_number, holds, readable
from contextual_rnn._precision import wide
from contextual_rnn._tensors import is_finite
from contextual_rnn.spec.domains import DOMAINS, Domain
from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.rows import has_more
from contextual_rnn.spec.tree import State


class ValuesOfLeaves:
    """Methods of `StateSpec` on the numbers of its leaves."""

    tree: State
    dtype: torch.dtype | None
    device: torch.device | None
    unpack: Callable[..., dict[str, Tensor]]
    describe: Callable[[], str]

    def __iter__(self) -> Iterator[Leaf]:
        raise NotImplementedError

    def dtype_of(self, leaf: Leaf) -> torch.dtype | None:
        """The dtype that the network receives for a leaf, as far as the spec says it."""
        return leaf.dtype or self.dtype

    @cached_property
    def floats(self) -> tuple[Leaf, ...]:
        """The leaves of real or complex floats, which can be learned and drawn."""
        return tuple(leaf for leaf in self if is_float(self.dtype_of(leaf)))

    @cached_property
    def constants(self) -> tuple[Leaf, ...]:
        """The leaves without floats: constants in every initial state."""
        return tuple(leaf for leaf in self if not is_float(self.dtype_of(leaf)))

    @cached_property
    def bounded(self) -> tuple[tuple[Leaf, Domain], ...]:
        """The leaves with a domain, and the domain."""
        return tuple((leaf, DOMAINS[leaf.domain]) for leaf in self if leaf.domain is not None)

    def constrain(self, leaves: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Leaves as the network takes them, each in its domain, of the real numbers that stand for them."""
        return self._in_other_numbers(leaves, lambda domain: domain.constrain)

    def unconstrain(self, leaves: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The inverse of `constrain`: a far number for a limit of a domain, NaN outside."""
        return self._in_other_numbers(leaves, lambda domain: domain.unconstrain)

    def _in_other_numbers(
        self, leaves: Mapping[str, Tensor], function_of: Callable[[Domain], Callable[[Tensor], Tensor]]
    ) -> Mapping[str, Tensor]:
        if not self.bounded:  # every call of a state comes here
            return leaves
        changed = dict(leaves)
        for leaf, domain in self.bounded:
            tensor = leaves[leaf.name]
            changed[leaf.name] = function_of(domain)(wide(tensor)).to(tensor.dtype)
        return changed

    def check_domains(self, leaves: Mapping[str, Tensor], name: str, *, limits: bool = True, wait: bool = True) -> None:
        """ValueError for argument `name` where a leaf is `outside` its domain, which takes `limits` and `wait` too."""
        if (leaf := self.outside(leaves, limits=limits, wait=wait)) is not None:
            raise ValueError(f"{name}: expected {leaf}")

    def outside(self, leaves: Mapping[str, Tensor], *, limits: bool = True, wait: bool = True) -> str | None:
        """The first leaf outside its domain in words, None where there is none.

        With `limits` those of a domain are inside: a network may reach them by rounding. Without `wait` only numbers
        on the CPU are looked at.
        """
        for leaf, domain in self.bounded:
            tensor = leaves[leaf.name].detach()
            if not readable(tensor) or not tensor.numel() or not (wait or tensor.device.type == "cpu"):
                continue
            least, most = (float(number) for number in tensor.aminmax())  # NaN where there is one
            if not all(domain.has(number, limits=limits) for number in (least, most)):
                inside = domain.words if limits else f"{domain.words}, which learned numbers can reach"
                return f"leaf {leaf.name!r} of {inside}, got {least:.6g} to {most:.6g}"
        return None

    @property
    def start(self) -> float | dict[str, float]:
        """What the network itself starts from: 0, or the number of each leaf."""
        return {leaf.name: leaf.start for leaf in self} if any(leaf.start for leaf in self) else 0.0

    @property
    def learned_start(self) -> float | dict[str, float]:
        """`start` in real numbers, as they are learned; ValueError for a leaf that starts at a limit of its domain."""
        start = self.start
        if not self.bounded:
            return start
        starts = start if isinstance(start, dict) else dict.fromkeys((leaf.name for leaf in self), start)
        numbers = {name: torch.tensor(number, dtype=torch.float64, device="cpu") for name, number in starts.items()}
        self.check_domains(numbers, "zero_init", limits=False)
        return {name: number.item() for name, number in self.unconstrain(numbers).items()}

    def fill(self, value: float | State | None = None) -> dict[str, Tensor]:
        """New leaves of one example, each `shape`: a number, copies of a state of one example, or what `start` says.

        Raises TypeError or ValueError for numbers that are not finite or that a leaf's dtype does not have, and for a
        state of another structure, shape or kind of numbers, without numbers (on meta), or with something where the
        spec has None.
        """
        if isinstance(value, Real):
            return {leaf.name: self._full(leaf, check_number("value", value)) for leaf in self}
        if value is None:
            return {leaf.name: self._full(leaf, leaf.start) for leaf in self}
        leaves = self.unpack(value, "value")
        if has_more(self.tree, value):
            raise ValueError(f"value: expected {self.describe()}, got something where it has None")
        for leaf in self:
            tensor, dtype = leaves[leaf.name], self.dtype_of(leaf)
            if (shape := tuple(tensor.shape)) != leaf.shape:
                raise ValueError(f"value: expected leaf {leaf.name!r} of one example, {leaf.shape}, got {shape}")
            if not is_float(dtype):
                if tensor.dtype != dtype:
                    raise TypeError(f"value: expected leaf {leaf.name!r} of {dtype}, got {tensor.dtype}")
            elif not is_float(tensor.dtype) or (tensor.is_complex() and dtype is not None and not dtype.is_complex):
                raise TypeError(f"value: expected leaf {leaf.name!r} of floats, got {tensor.dtype}")
            if tensor.is_meta and self.device is not None and self.device.type != "meta":
                raise ValueError(f"value: expected leaf {leaf.name!r} with numbers that can be read, got one on meta")
            leaves[leaf.name] = copy = tensor.detach().to(self.device, dtype, copy=True)
            if readable(copy) and not is_finite(copy):
                raise ValueError(f"value: expected finite numbers in leaf {leaf.name!r}, got NaN or infinity")
        return leaves

    def _full(self, leaf: Leaf, number: float) -> Tensor:
        dtype = self.dtype_of(leaf) or torch.get_default_dtype()
        if not holds(dtype, number):
            raise ValueError(f"value: expected a number that leaf {leaf.name!r} of {dtype} can hold, got {number}")
        return torch.full(leaf.shape, number, dtype=dtype, device=self.device)


def is_float(dtype: torch.dtype | None) -> bool:
    """Whether numbers of this dtype, None for a network's own, can be learned."""
    return dtype is None or dtype.is_floating_point or dtype.is_complex

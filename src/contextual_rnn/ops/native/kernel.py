"""What a native kernel of any recurrence provides, and what autograd and operators must know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from contextual_rnn._tensors import described

# Shape, dtype and device of each of `given`.
Kinds = list[tuple[torch.Size, torch.dtype, torch.device] | None]


class Kernel(Protocol):
    """A recurrence on plain tensors, forward and backward; knows nothing of autograd.

    `given` is a named tuple of the tensors of a call, `settings` one of its numbers; each recurrence has its own.
    """

    def forward(self, given: Any, settings: Any, keep: bool, keep_extra: bool, /) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs, a further result, and what the backward pass needs.

        The further result has no elements unless `keep_extra`, and what is saved has none unless `keep`.
        """
        ...

    def backward(
        self,
        given: Any,
        settings: Any,
        output: Tensor,
        saved: Tensor,
        grad_output: Tensor | None,
        grad_extra: Tensor | None,
        wanted: list[bool],
        /,
    ) -> list[Tensor]:
        """Gradients of those of `given` that are wanted, in their order. Leaves `saved` as it was.

        `wanted` is one bool for each of `given`.
        """
        ...

    def saved_size(self, given: Any, settings: Any, /) -> int:
        """Elements of what `forward` saves; sizes may be symbolic."""
        ...


class Operation:
    """A kernel with the types of its arguments.

    `name` is that of the operator. The operator takes the fields of `given` that have no default: compiled programs do
    outside what the others are for. `check(given, settings, **others)` raises ValueError for what the kernel must not
    be called with, where `others` are tensors of the backward pass by name. `empty(given, keep_extra)` makes the
    outputs and the further result without filling them.
    """

    def __init__(
        self,
        name: str,
        kernel: Kernel,
        given: Any,
        settings: Any,
        check: Callable[..., None],
        empty: Callable[[Any, bool], tuple[Tensor, Tensor]],
    ):
        self.name, self.kernel, self.given, self.settings = name, kernel, given, settings
        self.check, self.empty = check, empty
        self.n_given, self.n_settings = len(given._fields), len(settings._fields)
        self.n_in_operator = self.n_given - len(given._field_defaults)

    def unpack(self, arguments: Sequence[Any], n_given: int) -> tuple[Any, Any, Sequence[Any]]:
        """`given`, of which there are the first `n_given`, settings, and what follows them."""
        end = n_given + self.n_settings
        return self.given(*arguments[:n_given]), self.settings(*arguments[n_given:end]), arguments[end:]

    def run(self, given: Any, settings: Any, keep: bool, keep_extra: bool) -> tuple[Tensor, Tensor, Tensor]:
        """`Kernel.forward`."""
        return self.kernel.forward(self._readable(given), settings, keep, keep_extra)

    def _readable(self, given: Any) -> Any:
        """Without negations yet to be done, which a kernel would not see."""
        return self.given._make([None if tensor is None else tensor.resolve_neg() for tensor in given])

    def differentiate(
        self, given: Any, settings: Any, kinds: Kinds | None, output: Tensor, saved: Tensor, *others: Any
    ) -> list[Tensor]:
        """`Kernel.backward`, which must not be called with less than it saved.

        `kinds` are those of `given` in the forward pass, None where they are checked: the data of a parameter may have
        been set since, as `module.float()` does, which autograd does not notice.
        """
        for name, tensor, kind in zip(given._fields, given, kinds or (), strict=False):
            if kind is not None and (tensor.shape, tensor.dtype, tensor.device) != kind:
                shape, dtype, device = kind
                expected = f"{dtype} of shape {tuple(shape)} on {device}, as in the forward pass"
                raise RuntimeError(f"{name}: expected {expected}, got {described(tensor)}")
        expected = self.kernel.saved_size(given, settings)
        for name, tensor in (("output", output), ("saved", saved)):
            if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        fits = saved.dtype == output.dtype == given[0].dtype and saved.device == output.device
        fits = fits and saved.layout == torch.strided
        if not fits or saved.shape != (expected,) or not saved.is_contiguous():
            place = f"{output.dtype} on {output.device}"
            raise RuntimeError(f"saved: expected {expected} contiguous elements of {place}, got {described(saved)}")
        return self.kernel.backward(self._readable(given), settings, output, saved, *others)


def kinds_of(given: Any) -> Kinds:
    """What of the tensors must be the same in both passes."""
    return [None if tensor is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in given]


def spread(grads: Sequence[Tensor | None], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients in the places of what they are wanted for, None elsewhere."""
    remaining = iter(grads)
    return tuple(next(remaining) if want else None for want in wanted)

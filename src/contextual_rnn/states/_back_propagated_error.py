"""The error that is back-propagated to an initial state, unit by unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contextual_rnn._numbers import DECAY
from contextual_rnn._precision import is_narrow, wide
from contextual_rnn._saved_numbers import SavesNumbers
from contextual_rnn.spec.networks import StateSpec


class _Before(NamedTuple):
    """The buffers of a leaf before an update, and the loss scale of that update."""

    name: str
    square: Tensor
    first: Tensor
    scale: float


class BackPropagatedError(SavesNumbers):
    """Of every unit the root of a moving mean of (dE/dh0)^2, relative to what it was at the first update.

        square <- decay * square + (1 - decay) * mean over rows of (dE/dh0)^2
        relative = sqrt(square) / first, over its own root mean square where that is above 1

    The bound is ours. Without it noise can raise the error that raises the noise until nothing is finite, as in a GRU,
    which passes a large h0 on; the source's tanh units saturate. Beyond it units still share the noise by their errors.

    `first` is the root of the leaf's mean square when a gradient other than zero first came, so that neither the
    loss's unit nor how it is averaged over the batch matters; until then `relative` is 1. Gradients that are not
    finite are passed over. All of it is kept as buffers, so saved and moved with the module; they are float32 at least,
    whatever the module is moved to.

    Under a loss scale (`torch.amp.GradScaler`) gradients are as large as the scale says, which no hook can see: give
    the scaler to `unscale`.
    """

    saved_numbers = MappingProxyType({"decay": DECAY})

    def __init__(self, spec: StateSpec, decay: float):
        super().__init__()
        self.decay = decay
        self._scaler: Any = None
        self._unknown_scale = False  # whether updates came without a scaler
        self._undo: list[_Before] = []  # the updates since the last forward pass
        zeros = spec.fill(0.0)
        for name in (leaf.name for leaf in spec.floats):
            square = wide(zeros[name])
            self.register_buffer(f"square_{name}", square)
            self.register_buffer(f"first_{name}", square.new_zeros(()))

    def unscale(self, scaler: Any) -> None:
        """Divide every gradient by the scale of `scaler`, a `torch.amp.GradScaler` (enabled or not), from now on.

            h0 = FreeState(gru, noise=0.1, error_decay=0.99)
            scaler = torch.amp.GradScaler()
            h0.error.unscale(scaler)  # once before training, or in every step before scaler.update()

        Without it the noise follows the scale: where the scale is halved or doubled, so is the error. If the scaler is
        in use already, the gradients until now are taken to be under its present scale. A step that the scaler skips,
        because a gradient overflowed, counts for nothing. None ends it. Copies and files of the module are without the
        scaler: give it to them anew.

        Raises TypeError for what has no `get_scale()`.
        """
        if scaler is not None and not callable(getattr(scaler, "get_scale", None)):
            raise TypeError(f"scaler: expected a GradScaler or None, got {type(scaler).__name__}")
        if scaler is self._scaler:
            return
        # A scaler that has scaled nothing yet has no tensor for its scale.
        if scaler is not None and self._unknown_scale and getattr(scaler, "_scale", None) is not None:
            scale = scaler.get_scale()
            for name, buffer in self._buffers.items():
                buffer /= scale if name.startswith("first_") else scale**2
        self._scaler, self._unknown_scale, self._undo = scaler, False, []

    def watch(self, name: str, rows: Tensor) -> None:
        """Update once the gradient of `rows`, (B, *shape) or `shape`, is there.

        Raises RuntimeError under torch.compile, which would leave the update out.
        """
        if torch.compiler.is_compiling():
            raise RuntimeError("error_decay: expected None under torch.compile, where no back-propagated error is seen")
        if rows.requires_grad:
            rows.register_hook(partial(self._update, name))

    def relative(self, name: str) -> Tensor:
        self._undo_if_skipped()
        square, first = self.get_buffer(f"square_{name}"), self.get_buffer(f"first_{name}")
        relative = torch.where(first > 0, square.sqrt() / first, 1)
        return relative / relative.square().mean().sqrt().clamp(min=1)

    @torch.no_grad()
    def _update(self, name: str, gradient: Tensor) -> None:
        square, first = self.get_buffer(f"square_{name}"), self.get_buffer(f"first_{name}")
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        new = wide(gradient)
        new = (new if scale == 1 else new / scale).square()
        if gradient.ndim > square.ndim:
            new = new.mean(0)
        if not gradient.numel() or not bool(new.isfinite().all()):
            return
        if self._scaler is None:
            self._unknown_scale = True
        else:
            self._undo.append(_Before(name, square.clone(), first.clone(), scale))
        if first > 0:
            square.lerp_(new, 1 - self.decay)
        else:
            square.copy_(new)
            first.copy_(new.mean().sqrt())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget all errors, as the constructor does."""
        self._undo, self._unknown_scale = [], False
        for buffer in self.buffers():
            buffer.zero_()

    def extra_repr(self) -> str:
        return f"decay={self.decay}"

    def _undo_if_skipped(self) -> None:
        """Before a forward pass: a scale that has fallen says that the scaler skipped the last step."""
        if self._undo and self._scaler.get_scale() < self._undo[-1].scale:
            for before in reversed(self._undo):
                self.get_buffer(f"square_{before.name}").copy_(before.square)
                self.get_buffer(f"first_{before.name}").copy_(before.first)
        self._undo = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BackPropagatedError:
        self._undo = []
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            old = before[name]
            if buffer is not None and old is not None and is_narrow(buffer.dtype):
                self._buffers[name] = old.to(buffer.device, torch.float32)
        return self

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._undo, self._unknown_scale = [], False
        super()._load_from_state_dict(*args, **options)
        for name, buffer in self._buffers.items():
            if buffer is not None:  # assign=True keeps the dtype of the file
                self._buffers[name] = wide(buffer)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_scaler": None, "_undo": []}

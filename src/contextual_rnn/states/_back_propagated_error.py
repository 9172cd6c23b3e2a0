"""The error that is back-propagated to an initial state, unit by unit."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from contextual_rnn.state_spec import StateSpec


class BackPropagatedError(nn.Module):
    """Of every unit the root of a moving mean of (dE/dh0)^2, relative to what it was at the first update.

        square <- decay * square + (1 - decay) * mean over rows of (dE/dh0)^2
        relative = sqrt(square) / first, over its own root mean square where that is above 1

    The bound is ours. Without it noise can raise the error that raises the noise until nothing is finite, as in a GRU,
    which passes a large h0 on; the source's tanh units saturate. Beyond it units still share the noise by their errors.

    `first` is the root of the leaf's mean square when a gradient other than zero first came, so that neither the
    loss's unit nor how it is averaged over the batch matters; until then `relative` is 1. Gradients that are not
    finite are passed over. All of it is kept as buffers, so saved and moved with the module.
    """

    def __init__(self, spec: StateSpec, decay: float):
        super().__init__()
        self.decay = decay
        for name, square in spec.fill(0.0).items():
            self.register_buffer(f"square_{name}", square)
            self.register_buffer(f"first_{name}", square.new_zeros(()))

    def watch(self, name: str, rows: Tensor) -> None:
        """Update once the gradient of `rows`, (B, *shape) or `shape`, is there.

        Raises RuntimeError under torch.compile, which would leave the update out.
        """
        if torch.compiler.is_compiling():
            raise RuntimeError("error_decay: expected None under torch.compile, where no back-propagated error is seen")
        if rows.requires_grad:
            rows.register_hook(partial(self._update, name))

    def relative(self, name: str) -> Tensor:
        square, first = self.get_buffer(f"square_{name}"), self.get_buffer(f"first_{name}")
        relative = torch.where(first > 0, square.sqrt() / first, 1)
        return relative / relative.square().mean().sqrt().clamp(min=1)

    @torch.no_grad()
    def _update(self, name: str, gradient: Tensor) -> None:
        square, first = self.get_buffer(f"square_{name}"), self.get_buffer(f"first_{name}")
        new = gradient.square()
        if gradient.ndim > square.ndim:
            new = new.mean(0)
        if not gradient.numel() or not bool(new.isfinite().all()):
            return
        if first > 0:
            square.lerp_(new, 1 - self.decay)
        else:
            square.copy_(new)
            first.copy_(new.mean().sqrt())

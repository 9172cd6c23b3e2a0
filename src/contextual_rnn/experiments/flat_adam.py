"""Adam over all parameters of a model as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatAdam:
    """torch.optim.Adam (Kingma and Ba 2015) on the one vector of which all parameters become views.

    A small model's step is then one call of Adam and one concatenation of gradients, not a dozen of each. The numbers
    are Adam's own: it treats every element by itself. With `clip_norm` the gradient's norm is clipped first.
    """

    def __init__(self, model: nn.Module, learning_rate: float, clip_norm: float | None = None):
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._vector = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in self._parameters]))
        self._vector.grad = torch.zeros_like(self._vector)
        views = self._vector.detach().split([parameter.numel() for parameter in self._parameters])
        for parameter, view in zip(self._parameters, views, strict=True):
            parameter.data = view.view_as(parameter)
        self._clip_norm = clip_norm
        self.adam = torch.optim.Adam([self._vector], lr=learning_rate, fused=True)

    def step(self, loss: Tensor) -> None:
        """Differentiate `loss` and update every parameter."""
        grads = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        assert self._vector.grad is not None
        torch.cat([grad.flatten() for grad in grads], out=self._vector.grad)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_([self._vector], self._clip_norm)
        self.adam.step()

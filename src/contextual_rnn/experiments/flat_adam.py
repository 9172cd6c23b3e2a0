"""Adam over all parameters of a model as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatAdam:
    """torch.optim.Adam (Kingma and Ba 2015) on the one vector of which all parameters become views.

    A small model's step is then one call of Adam and one concatenation of gradients, not a dozen of each. The numbers
    are Adam's own: it treats every element by itself. With `clip_norm` the gradient's norm is clipped first. `gradient`
    is that vector's.
    """

    def __init__(self, model: nn.Module, learning_rate: float, clip_norm: float | None = None):
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._vector = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in self.parameters]))
        self._vector.grad = self.gradient = torch.zeros_like(self._vector)
        self._values = self._vector.detach()
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, view in zip(self.parameters, self._values.split(sizes), strict=True):
            parameter.data = view.view_as(parameter)
        views = self.gradient.split(sizes)
        self._grads = {p: view.view_as(p) for p, view in zip(self.parameters, views, strict=True)}
        self._clip_norm = clip_norm
        self.adam = torch.optim.Adam([self._vector], lr=learning_rate, fused=True)

    def grad(self, parameter: nn.Parameter) -> Tensor:
        """Where the gradient of `parameter` is looked for."""
        return self._grads[parameter]

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradients of `loss` where `step` looks for them."""
        grads = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
        torch.cat([grad.flatten() for grad in grads], out=self.gradient)

    def step(self) -> None:
        """Update every parameter."""
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_([self._vector], self._clip_norm)
        state = self.adam.state[self._vector]
        if not state:
            self.adam.step()  # makes its state
            return
        # What `adam.step()` comes to, without the hundred microseconds that it takes to come to it.
        group = self.adam.param_groups[0]
        state["step"].add_(1)
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            [self._values], [self.gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
            eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

"""Adam over all parameters of a model as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# As Kingma and Ba (2015) give them, and torch.optim.Adam takes them.
BETAS, EPS = (0.9, 0.999), 1e-8


class FlatAdam:
    """torch.optim.Adam (Kingma and Ba 2015) on the one vector of which all parameters become views.

    A small model's step is then one call of Adam and one concatenation of gradients, not a dozen of each. The numbers
    are Adam's own: it treats every element by itself. With `clip_norm` the gradient's norm is clipped first. `gradient`
    is that vector's, `state` what Adam keeps of it, by the names of torch.optim.Adam.
    """

    def __init__(self, model: nn.Module, clip_norm: float | None = None):
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("model: expected at least one parameter that requires a gradient, got none")
        self._vector = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in self.parameters]))
        self._vector.grad = self.gradient = torch.zeros_like(self._vector)
        self._values = self._vector.detach()
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, view in zip(self.parameters, self._values.split(sizes), strict=True):
            parameter.data = view.view_as(parameter)
        views = self.gradient.split(sizes)
        self._grads = {p: view.view_as(p) for p, view in zip(self.parameters, views, strict=True)}
        self._clip_norm = clip_norm
        self.state = {
            "step": torch.zeros((), dtype=torch.float32, device=self._values.device),
            "exp_avg": torch.zeros_like(self._values),
            "exp_avg_sq": torch.zeros_like(self._values),
        }

    def grad(self, parameter: nn.Parameter) -> Tensor:
        """The place of the gradient of `parameter`."""
        return self._grads[parameter]

    def differentiate(self, loss: Tensor) -> None:
        """Write the gradients of `loss` where `step` reads them."""
        grads = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
        with torch.no_grad():  # on torch 2.9 the zeros of an unused parameter require a gradient themselves
            torch.cat([grad.flatten() for grad in grads], out=self.gradient)

    def step(self, learning_rate: float | Tensor, skip: Tensor | None = None) -> None:
        """Update every parameter, unless `skip`, (), is 1 and not 0: then nothing changes.

        Both may be tensors on the parameters' device, so that the host does not wait for their values.
        """
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_([self._vector], self._clip_norm)
        state = self.state
        state["step"].add_(1)
        # The call inside `torch.optim.Adam.step`, without its hundred microseconds of overhead.
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
            [self._values], [self.gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            lr=learning_rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=EPS, amsgrad=False, maximize=False,
            found_inf=skip,
        )  # fmt: skip
        if skip is not None:
            state["step"].sub_(skip)

"""The parameters of an initial state that is no function of a context: one for each leaf."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contextual_rnn.spec.leaf import Leaf
from contextual_rnn.spec.tree import State
from contextual_rnn.states._heads import tile
from contextual_rnn.states._start import Start


class LeafParameters(nn.ParameterDict):
    """A parameter of one example, `shape`, for each of `leaves`, which start as `tensors`, filled with `value`.

    With `draw_factors` a low-rank factor starts at N(0, 1 / width) instead.

    Tools that take gradients row by row, such as Opacus, hook the module that holds a parameter: they want a tensor
    with the batch first as its input, and one as its output. So `forward` gives all leaves side by side, (B, units).
    """

    # Leaves may have any name that a ParameterDict leaves free, so all else is named with an underscore.
    __call__ = nn.Module.__call__  # that of a ParameterDict refuses

    def __init__(self, leaves: tuple[Leaf, ...], tensors: dict[str, Tensor], value: float | State, draw_factors: bool):
        tensors = {leaf.name: tensors[leaf.name] for leaf in leaves}
        super().__init__(tensors)
        self._start = Start.of(value, tensors)
        self._factors = {leaf.name: leaf.shape[-1] ** -0.5 for leaf in leaves if leaf.factor and draw_factors}
        self._draw_factors()

    def reset_parameters(self) -> None:
        """Start anew as the constructor does."""
        self._start.write(dict(self.items()))
        self._draw_factors()

    def _draw_factors(self) -> None:
        for name, std in self._factors.items():
            nn.init.normal_(self[name], std=std)

    @property
    def _hooked(self) -> bool:
        """Whether a tool watches what goes in and out."""
        return bool(self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks)

    def _tiled(self, batch_size: int | None) -> dict[str, Tensor]:
        """Each parameter for every row of a batch, (B, *shape), or `shape` without a batch."""
        if batch_size is not None and self._keys and self._hooked:
            return self._through_forward(batch_size)
        return {name: tile(parameter, batch_size) for name, parameter in self._untiled().items()}

    def _untiled(self) -> dict[str, Tensor]:
        """Each parameter, `shape`."""
        parameters, untiled = self._parameters, {}  # looking up an attribute of a module is slow
        for name in self._keys:
            parameter = parameters.get(name)  # None where torch's parametrizations took its place
            untiled[name] = getattr(self, name) if parameter is None else parameter
        return untiled

    def _through_forward(self, batch_size: int) -> dict[str, Tensor]:
        parameters = dict(self.items())
        flat = self(next(iter(parameters.values())).new_empty(batch_size, 0))
        parts = flat.split([parameter.numel() for parameter in parameters.values()], 1)
        return {
            name: part.unflatten(1, parameter.shape).to(parameter.dtype)
            for (name, parameter), part in zip(parameters.items(), parts, strict=True)
        }

    def forward(self, rows: Tensor) -> Tensor:
        """All parameters side by side, (B, units), for rows (B, 0), which only say the batch."""
        return tile(torch.cat([parameter.flatten() for parameter in self.values()]), rows.shape[0])

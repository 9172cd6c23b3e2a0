"""A normally distributed initial state (paper, Eq. 4)."""

# A mean of ours hands on its features, and parameters whose leaves may have any public name hide their own.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn._numbers import NOT_NEGATIVE, check_flag, check_number
from contextual_rnn._precision import wide
from contextual_rnn._sharded import as_forward
from contextual_rnn.spec.domains import DOMAINS
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.networks import StateSpec
from contextual_rnn.states._heads import Heads
from contextual_rnn.states._parameters import LeafParameters
from contextual_rnn.states.base import InitialState
from contextual_rnn.states.context import ContextState
from contextual_rnn.states.moments import Moments


class NormalState(InitialState):
    """h0 ~ N(g(context), sigma^2) with sigma = min_scale + softplus(s), reparameterised (paper, Eq. 4).

    Training draws h0 = mean + sigma * epsilon; evaluation takes the mean. `encoder` is the context network, with
    options as for `ContextState`, or another initial state that serves as the mean. s is a free vector for each leaf,
    or with `scale_from_context` the output of a second head. Sigma starts at `scale`. `min_scale` is a floor: without a
    KL term (the paper has none) nothing but early stopping keeps sigma above zero. Leaves without floats have no sigma:
    they are those of the mean. `device` and `dtype` are those of what is made here.

    Raises TypeError or ValueError for a scale that is not a finite number above min_scale, a min_scale that is no
    finite number of at least 0, flags that are not True or False, and options of a context network where `encoder` is
    an initial state; ValueError for a network whose state has complex leaves or none of floats.
    """

    saved_numbers = MappingProxyType({"min_scale": NOT_NEGATIVE})

    def __init__(
        self,
        network: nn.Module | StateSpec,
        encoder: nn.Module,
        scale: float = 0.25,
        *,
        min_scale: float = 0.0,
        scale_from_context: bool = False,
        features: int | None = None,
        zero_init: bool = False,
        activation: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(network, device=device, dtype=dtype)
        _check_floats(self.spec)
        check_flag("zero_init", zero_init)
        check_flag("scale_from_context", scale_from_context)
        self.min_scale = check_number("min_scale", min_scale, *NOT_NEGATIVE)
        above = f"a finite number above min_scale ({min_scale})"
        scale = check_number("scale", scale, above, lambda scale: scale > self.min_scale)
        self.check_saved("scale", scale)
        if isinstance(encoder, InitialState):
            if encoder.spec.tree != self.spec.tree:
                ours, theirs = self.spec.describe(), encoder.spec.describe()
                raise ValueError(f"encoder: expected a state for {ours}, got one for {theirs}")
            options = {"features": features, "zero_init": zero_init or None, "activation": activation}
            for name, option in options.items():
                if option is not None:
                    kind = type(encoder).__name__
                    raise ValueError(f"{name}: expected only with a context network as encoder, got {kind}")
            self._refuse_latent("encoder", encoder)
            self.mean = encoder
        else:
            self.mean = ContextState(self.spec, encoder, features=features, zero_init=zero_init, activation=activation)
        excess = torch.tensor(scale - min_scale, dtype=torch.float64, device="cpu")
        start = DOMAINS["positive"].unconstrain(excess).item()  # softplus^-1
        self.scale_heads = self.raw_scale = None
        if not scale_from_context:
            floats, spec = self.spec.floats, replace(self.spec, tree=self.spec.floats)
            self.raw_scale = LeafParameters(floats, spec.fill(start), start, draw_factors=False)
        elif isinstance(self.mean, ContextState):
            self.scale_heads = Heads(self.spec, self.mean.features, constant=start)
        else:
            raise ValueError(f"scale_from_context: expected a context network as encoder, got {type(encoder).__name__}")

    @property
    def reads_context(self) -> bool:
        return self.mean.reads_context

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        return self._computed(context, batch_size, batched)

    def _computed(
        self, context: Any, batch_size: int | None, batched: bool | None, precise: bool = False
    ) -> dict[str, Moments]:
        """With `precise` the heads compute in float32 at least, as densities need it; a draw does not."""
        mean, parameters = self.mean, self.raw_scale  # looking up an attribute of a module is slow
        raw: Mapping[str, Tensor] = {}
        if isinstance(mean, ContextState):
            means, features = as_forward(mean, mean._means)(context, batch_size, batched, precise)
            if parameters is None:
                assert self.scale_heads is not None
                raw = self.scale_heads(features, batch_size, precise)
        else:
            of_mean = as_forward(mean, mean._moments)(context, batch_size, batched)
            means = {name: leaf.mean for name, leaf in of_mean.items()}
        if parameters is not None:
            raw = parameters._tiled(self._batch_size(means)) if parameters._hooked else parameters._untiled()
        moments: dict[str, Moments] = {}
        for leaf in self.spec.floats:
            scale = self.min_scale + functional.softplus(wide(raw[leaf.name]))
            moments[leaf.name] = Moments(means[leaf.name], scale)
        return moments | self._constants(self._batch_size(means)) if self.spec.constants else moments

    def _batch_size(self, means: Mapping[str, Tensor]) -> int | None:
        first = self.spec.floats[0]
        return rows_of(first, means[first.name])

    def _constants(self, batch_size: int | None) -> dict[str, Moments]:
        return self.mean._constants(batch_size)

    def reset_parameters(self) -> None:
        self.mean.reset_parameters()
        for part in (self.raw_scale, self.scale_heads):
            if part is not None:
                part.reset_parameters()

    def extra_repr(self) -> str:
        return f"{self.spec.describe()}, min_scale={self.min_scale}"


def _check_floats(spec: StateSpec) -> None:
    if not spec.floats:
        raise ValueError(f"network: expected one whose state has a leaf of floats, got {spec.describe()}")
    for leaf in spec.floats:
        dtype = spec.dtype_of(leaf)
        if dtype is not None and dtype.is_complex:
            raise ValueError(
                f"network: expected a state of real numbers for a normal state, got {leaf.name!r} of {dtype}"
            )

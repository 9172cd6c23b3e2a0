"""The initial states: constant (Eq. 2a), free (Eq. 2b), contextual (Eq. 2c), normal (Eq. 4).

Every state is described by its `moments`: for each leaf a mean and, where the state is random, a scale. The rest
(drawing, tiling over the batch, the network's layout) is the same for all and stands in `InitialState`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from contextual_rnn._back_propagated_error import BackPropagatedError
from contextual_rnn._context import Heads, batch_of, check_call, feature_count, features_of, tile
from contextual_rnn._moments import Moments, draw, kl, of_rows
from contextual_rnn._numbers import check_number, check_size
from contextual_rnn._tree import State
from contextual_rnn.state_spec import StateSpec, state_spec


class InitialState(nn.Module, ABC):
    """An initial state for `network` (or a `StateSpec`): a module that returns what the network takes as state.

    `spec` describes the state. Raises TypeError for a network without a registered spec.
    """

    def __init__(self, network: nn.Module | StateSpec):
        super().__init__()
        self.spec = state_spec(network)
        parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        if self.spec.dtype is None and parameter is not None:
            self.spec = self.spec.like(parameter)

    @property
    def reads_context(self) -> bool:
        """Whether the state depends on the context."""
        return False

    @abstractmethod
    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        """Mean and scale of every leaf; arguments as for `forward`."""

    def forward(
        self,
        context: Any = None,
        batch_size: int | None = None,
        *,
        batched: bool | None = None,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
    ) -> State:
        """The state as the network takes it: random in training where the state is random, its mean in evaluation.

        `context` is what the context network takes; one of one example is tiled where `batch_size` is given. Without
        `batch_size` the context's first axis says it; with neither, or `batched=False`, the state is of one example
        unbatched. `generator` makes draws repeatable. `rows`, (N,) int64: these rows of the batch, each a new draw.

        Raises ValueError for a context missing or of the wrong batch size, width, dtype or device, ValueError or
        TypeError for other bad arguments.
        """
        check_call(batch_size, batched, generator)
        moments = of_rows(self.moments(context, batch_size, batched), self.spec, rows)
        return self.spec.pack({n: draw(leaf, generator) if self.training else leaf.mean for n, leaf in moments.items()})

    def sample(
        self,
        context: Any = None,
        num_samples: int = 1,
        *,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Draw `num_samples` states a context, in training and evaluation alike, as one batch of B * num_samples rows.

        Row b * num_samples + s is draw s for context b. A state without noise is repeated.
        """
        check_call(batch_size, generator=generator)
        check_size("num_samples", num_samples)
        moments, leaves = self.moments(context, batch_size, None), {}
        for leaf in self.spec:
            mean, scale = moments[leaf.name]
            batched = mean.ndim > len(leaf.shape)
            if isinstance(scale, Tensor) and scale.ndim > len(leaf.shape):
                scale = scale.repeat_interleave(num_samples, 0)
            mean = mean.repeat_interleave(num_samples, 0) if batched else mean.expand(num_samples, *mean.shape)
            leaves[leaf.name] = draw(Moments(mean, scale), generator)
        return self.spec.pack(leaves)


class ConstantState(InitialState):
    """h0 = constant (paper, Eq. 2a): zero, any number, or any state of one example.

    `value` is a number, or a state of one unbatched example in the network's own structure and layout. Kept as
    buffers, so saved and moved with the module. Raises ValueError or TypeError for a value of another shape or
    structure.
    """

    def __init__(self, network: nn.Module | StateSpec, value: float | State = 0.0):
        super().__init__(network)
        for leaf, tensor in self.spec.fill(value).items():
            self.register_buffer(f"value_{leaf}", tensor)

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        size = batch_of(context, batch_size, batched)
        return {leaf.name: Moments(tile(getattr(self, f"value_{leaf.name}"), size), None) for leaf in self.spec}


class FreeState(InitialState):
    """h0 = variable (paper, Eq. 2b): learned, the same for every example, with optional noise on the copies.

    In training h0 = variable + noise * epsilon, epsilon ~ N(0, 1) drawn anew for every row and unit; in evaluation
    h0 = variable. With `error_decay` the noise of a unit is in proportion to a moving mean, of that decay, of the error
    back-propagated to it (Zimmermann et al. 2012): noise * `BackPropagatedError.relative`, which starts at `noise` (the
    source leaves this open), fades as the network learns, and never exceeds it in root mean square. `value` is where
    the variable starts, as for `ConstantState`; a low-rank factor that would start at zero starts at N(0, 1 / width).

    Raises TypeError or ValueError for a `noise` that is no number, negative or not finite, and an `error_decay`
    outside 0 <= error_decay < 1; RuntimeError for `error_decay` under torch.compile.
    """

    def __init__(
        self,
        network: nn.Module | StateSpec,
        noise: float = 0.0,
        value: float | State = 0.0,
        *,
        error_decay: float | None = None,
    ):
        super().__init__(network)
        self.noise = check_number("noise", noise, "a finite number of at least 0", lambda noise: noise >= 0)
        if error_decay is not None:
            check_number("error_decay", error_decay, "a number from 0 to below 1", lambda decay: 0 <= decay < 1)
        self.error = None if error_decay is None else BackPropagatedError(self.spec, error_decay)
        self.values = nn.ParameterDict(self.spec.fill(value))
        for leaf in self.spec:
            if leaf.factor and isinstance(value, Real) and value == 0:
                nn.init.normal_(self.values[leaf.name], std=leaf.shape[-1] ** -0.5)

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        size, moments = batch_of(context, batch_size, batched), {}
        for leaf in self.spec:
            mean, scale = tile(self.values[leaf.name], size), self.noise or None
            if self.error is not None and self.training:
                self.error.watch(leaf.name, mean)
                scale = self.noise * self.error.relative(leaf.name)
            moments[leaf.name] = Moments(mean, scale)
        return moments


class ContextState(InitialState):
    """h0 = g(context) (paper, Eq. 2c): a context network and one linear head for every leaf.

    leaf = activation(W_leaf net(context) + b_leaf). `net` maps a context to features (B, F), or (F,) for one example;
    F is read off its last layer, or given as `features` where that cannot be done. With `zero_init` the heads start at
    zero, so that a trained network's output does not change by a bit until training moves them; a low-rank factor
    keeps a random bias, for two zero factors would never move.

    Raises TypeError for a `net` that is no module or an `activation` that is no function, ValueError where F is
    neither given nor to be read off, and in the forward pass for an `activation` that changes the shape.
    """

    def __init__(
        self,
        network: nn.Module | StateSpec,
        net: nn.Module,
        *,
        features: int | None = None,
        zero_init: bool = False,
        activation: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(network)
        if activation is not None and not callable(activation):
            raise TypeError(f"activation: expected a function or None, got {type(activation).__name__}")
        self.net = net
        self.features = feature_count(net, features)
        self.activation = activation
        self.heads = Heads(self.spec, self.features, constant=0.0 if zero_init else None)

    @property
    def reads_context(self) -> bool:
        return True

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        features = features_of(self.net, context, self.features, batch_size, batched)
        return {name: Moments(mean, None) for name, mean in self.from_features(features, batch_size).items()}

    def from_features(self, features: Tensor, batch_size: int | None) -> dict[str, Tensor]:
        """The leaves for features (B, F) or (F,)."""
        leaves = self.heads(features, batch_size)
        if self.activation is None:
            return leaves
        activated = {name: self.activation(leaf) for name, leaf in leaves.items()}
        for name, leaf in activated.items():
            if leaf.shape != (expected := leaves[name].shape):
                raise ValueError(f"activation: expected shape {tuple(expected)} kept, got {tuple(leaf.shape)}")
        return activated


class NormalState(InitialState):
    """h0 ~ N(g(context), sigma^2) with sigma = min_scale + softplus(s), reparameterised (paper, Eq. 4).

    Training draws h0 = mean + sigma * epsilon; evaluation takes the mean. `net` is the context network, with options
    as for `ContextState`, or another initial state that serves as the mean. s is a free vector for each leaf, or with
    `scale_from_context` the output of a second head. Sigma starts at `scale`. `min_scale` is a floor: without a KL
    term (the paper has none) nothing but early stopping keeps sigma above zero.

    Raises TypeError or ValueError for a scale that is not a finite number above min_scale, a min_scale that is no
    finite number of at least 0, and options of a context network where `net` is an initial state.
    """

    def __init__(
        self,
        network: nn.Module | StateSpec,
        net: nn.Module,
        scale: float = 0.25,
        *,
        min_scale: float = 0.0,
        scale_from_context: bool = False,
        features: int | None = None,
        zero_init: bool = False,
        activation: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(network)
        self.min_scale = check_number("min_scale", min_scale, "a finite number of at least 0", lambda least: least >= 0)
        above = f"a finite number above min_scale ({min_scale})"
        scale = check_number("scale", scale, above, lambda scale: scale > self.min_scale)
        if isinstance(net, InitialState):
            if net.spec.tree != self.spec.tree:
                raise ValueError(f"net: expected a state for {self.spec.describe()}, got one for {net.spec.describe()}")
            options = {"features": features, "zero_init": zero_init or None, "activation": activation}
            for name, option in options.items():
                if option is not None:
                    raise ValueError(f"{name}: expected only with a context network as net, got {type(net).__name__}")
            self.mean = net
        else:
            self.mean = ContextState(self.spec, net, features=features, zero_init=zero_init, activation=activation)
        excess = torch.tensor(scale - min_scale, dtype=torch.float64, device="cpu")
        start = float(excess + torch.log(-torch.expm1(-excess)))  # softplus^-1, sound for large and small excess
        self.scale_heads = self.raw_scale = None
        if not scale_from_context:
            self.raw_scale = nn.ParameterDict(self.spec.fill(start))
        elif isinstance(self.mean, ContextState):
            self.scale_heads = Heads(self.spec, self.mean.features, constant=start)
        else:
            raise ValueError(f"scale_from_context: expected a context network as net, got {type(net).__name__}")

    @property
    def reads_context(self) -> bool:
        return self.mean.reads_context

    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        if self.scale_heads is not None and isinstance(self.mean, ContextState):
            features = features_of(self.mean.net, context, self.mean.features, batch_size, batched)
            means = self.mean.from_features(features, batch_size)
            raw: Mapping[str, Tensor] = self.scale_heads(features, batch_size)
        else:
            means = {name: leaf.mean for name, leaf in self.mean.moments(context, batch_size, batched).items()}
            raw = self.raw_scale  # pyright: ignore[reportAssignmentType]
        return {name: Moments(mean, self.min_scale + functional.softplus(raw[name])) for name, mean in means.items()}

    def distribution(self, context: Any = None, batch_size: int | None = None) -> dict[str, Normal]:
        """The distribution of every leaf, of event shape () and batch shape (B, *leaf.shape)."""
        check_call(batch_size)
        moments = self.moments(context, batch_size, None)
        return {name: Normal(mean, torch.as_tensor(scale)) for name, (mean, scale) in moments.items()}

    def log_prob(self, state: State, context: Any = None) -> Tensor:
        """log N(state; g(context), sigma^2) summed over leaves and units, (B,) in nats, or () without a batch.

        Raises TypeError or ValueError for a state of another structure or shape than the network's.
        """
        values = self.spec.unpack(state)
        first = next(iter(self.spec))
        value = values[first.name]
        distribution = self.distribution(context, value.shape[0] if value.ndim > len(first.shape) else None)
        return self._sum({name: distribution[name].log_prob(value) for name, value in values.items()})

    def kl(
        self, context: Any = None, batch_size: int | None = None, *, prior_mean: float = 0.0, prior_scale: float = 1.0
    ) -> Tensor:
        """KL(N(g(context), sigma^2) || N(prior_mean, prior_scale^2)) summed over leaves and units, (B,) in nats.

        Raises TypeError or ValueError for a prior_mean that is not a finite number, a prior_scale not a positive one.
        """
        check_number("prior_mean", prior_mean)
        check_number("prior_scale", prior_scale, "a positive, finite number", lambda scale: scale > 0)
        check_call(batch_size)
        moments = self.moments(context, batch_size, None)
        return self._sum({name: kl(leaf, prior_mean, prior_scale) for name, leaf in moments.items()})

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        sums = [terms[leaf.name].sum(dim=tuple(range(-len(leaf.shape), 0))) for leaf in self.spec]
        return torch.stack(torch.broadcast_tensors(*sums)).sum(0)

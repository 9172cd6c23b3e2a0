"""What every initial state is: a module that returns what its network takes as state.

A state is described by its `moments`: for each leaf a mean and, where the state is random, a scale. The rest (drawing,
tiling over the batch, the network's layout, densities) is the same for all states and stands in `InitialState`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from contextual_rnn._numbers import check_factory, check_held, check_number, check_size, readable
from contextual_rnn._precision import wide
from contextual_rnn._saved_numbers import SavesNumbers
from contextual_rnn._sharded import gathered
from contextual_rnn._tensors import check_floats
from contextual_rnn.spec.networks import StateSpec, spec_of
from contextual_rnn.spec.tree import State, pack, rows_of
from contextual_rnn.states._checked_moments import checked_moments
from contextual_rnn.states._heads import batch_of, check_call, tile
from contextual_rnn.states._start import Start
from contextual_rnn.states.moments import Moments, draw, kl, normal, of_rows


class InitialState(SavesNumbers, ABC):
    """An initial state for `network` (or a `StateSpec`): a module that returns what the network takes as state.

    `spec` describes the state. `device` and `dtype` are those of the parameters, by default the network's; a leaf with
    a dtype of its own keeps it. A leaf without floats is a constant.

    A state of your own defines `moments`, and `reads_context` where it reads the context; everything else is made of
    these (docs/own-states.md). It lists in `saved_numbers` which of its attributes are numbers that state_dicts and
    files have to restore, each with the expected range in words and as a function.

    Raises TypeError for a network without a registered spec, TypeError or ValueError for a device or dtype that
    parameters cannot have.
    """

    _start: Start | None = None  # what the buffers `value_...` start as

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # The library's own moments are right as they are, and every call of a state would pay for a check.
        moments: Any = cls.moments
        ours = getattr(moments, "__module__", "").startswith("contextual_rnn.") and moments is not InitialState.moments
        cls._moments = moments if ours else InitialState._moments

    def __init__(
        self,
        network: nn.Module | StateSpec,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        device, dtype = check_factory(device, dtype)
        spec = spec_of(network)
        if spec.dtype is None and isinstance(network, nn.Module):
            like = next((p for p in network.parameters() if p.is_floating_point() or p.is_complex()), None)
            spec = spec if like is None else spec.like(like)
        self.spec = replace(spec, device=device or spec.device, dtype=dtype or spec.dtype)
        if type(self)._moments is InitialState._moments:
            self._keep_zeros()

    def _keep_zeros(self) -> None:
        """Keep the start of the leaves without floats."""
        if self.spec.constants:
            constants = replace(self.spec, tree=self.spec.constants)
            self._keep(constants.fill(), constants.start)

    def _keep(self, leaves: dict[str, Tensor], value: float | State) -> None:
        """Keep leaves that are no parameters as buffers, and what they start as."""
        for name, tensor in leaves.items():
            self.register_buffer(f"value_{name}", tensor)
        self._start = Start.of(value, leaves) if leaves else None

    def reset_parameters(self) -> None:
        """Start anew as the constructor does, such as after `to_empty`; a context network is reset by itself.

        Of states made of other states all are reset.
        """
        if self._start is not None:
            names = (leaf.name for leaf in self.spec)
            values = {name: getattr(self, f"value_{name}", None) for name in names}
            self._start.write({name: tensor for name, tensor in values.items() if tensor is not None})

    def _constants(self, batch_size: int | None) -> dict[str, Moments]:
        """The leaves without floats, which are the same for every context and example."""
        leaves = ((leaf.name, getattr(self, f"value_{leaf.name}")) for leaf in self.spec.constants)
        return {name: Moments(tile(value, batch_size), None) for name, value in leaves}

    @property
    def reads_context(self) -> bool:
        """Whether the state depends on the context."""
        return False

    @abstractmethod
    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> Mapping[str, Moments]:
        """Mean and scale of every leaf, by name; arguments and errors as for `forward`.

        A state of your own may give the mean of one example, `shape`, which is tiled over the batch, and leave out
        leaves without floats, which are zero then. TypeError or ValueError, which names the class and the leaf, for
        moments of other leaves, shapes, batch sizes or kinds of numbers, and parts on different devices.
        """

    def _moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        """`moments` as all else reads them, checked and whole; where they are the library's, `moments` itself."""
        if not self.reads_context:
            batch_size = batch_of(context, batch_size, batched)
            batched = batch_size is not None
        moments = self.moments(context, batch_size, batched)
        moments, size = checked_moments(f"{type(self).__name__}.moments", self.spec, moments, batch_size, batched)
        return {**self._constants(size), **moments} if self.spec.constants else moments

    def _precise_moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        """The moments for a density, computed in float32 at least where that can be chosen."""
        return self._moments(context, batch_size, batched)

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
        `batch_size` the context says it: the first axis of its first tensor, or how many sequences its first
        PackedSequence holds. With neither, or `batched=False`, the state is of one example unbatched. `generator` makes
        draws repeatable, also where torch.utils.checkpoint recomputes a call. `rows`, (N,) int64: these rows of the
        batch, each a new draw.

        Raises ValueError for a context missing or of the wrong batch size, width, dtype or device, ValueError or
        TypeError for other bad arguments, such as no batch size beside a context that has no tensor to say it;
        RuntimeError for a draw from `generator` in a backward pass that cannot be the same as in the forward pass.
        """
        batch_size = check_call(batch_size, batched, generator)
        moments = of_rows(self._moments(context, batch_size, batched), self.spec, rows)
        leaves = {n: draw(leaf, generator) if self.training else leaf.mean for n, leaf in moments.items()}
        return pack(self.spec.tree, leaves)

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
        batch_size = check_call(batch_size, generator=generator)
        num_samples = check_size("num_samples", num_samples)
        moments, leaves = gathered(self, self._moments)(context, batch_size, None), {}
        for leaf in self.spec:
            mean, scale = moments[leaf.name]
            if isinstance(scale, Tensor) and rows_of(leaf, scale) is not None:
                scale = scale.repeat_interleave(num_samples, 0)
            single = rows_of(leaf, mean) is None
            mean = mean.expand(num_samples, *mean.shape) if single else mean.repeat_interleave(num_samples, 0)
            leaves[leaf.name] = draw(Moments(mean, scale), generator)
        return pack(self.spec.tree, leaves)

    def distribution(self, context: Any = None, batch_size: int | None = None) -> dict[str, Normal]:
        """The distribution of every leaf, of event shape () and batch shape (B, *leaf.shape), in float32 at least.

        Raises ValueError for a state without leaves of floats, or with one that has no noise or complex numbers.
        """
        return {name: normal(leaf) for name, leaf in self._random_moments(context, batch_size).items()}

    def log_prob(self, state: State, context: Any = None) -> Tensor:
        """log N(state; mean, scale^2) summed over leaves and units, (B,) in nats, or () without a batch.

        Computed and returned in float32, of a state or module in float64 in float64, under autocast too. Leaves without
        floats are ignored. Raises TypeError or ValueError for a state of another structure or shape than the network's,
        of no floats, with NaN, or whose layers differ where the spec shares one state between them, and ValueError as
        `distribution` does.
        """
        values = self.spec.unpack(state)
        for leaf in self.spec.floats:
            check_floats("state", values[leaf.name])
            if readable(values[leaf.name]) and bool(values[leaf.name].isnan().any()):
                raise ValueError(f"state: expected numbers in leaf {leaf.name!r}, got NaN")
        first = next(iter(self.spec))
        distribution = self.distribution(context, rows_of(first, values[first.name]))
        for name, density in distribution.items():
            if values[name].device != density.loc.device:
                expected, received = density.loc.device, values[name].device
                raise ValueError(f"state: expected leaf {name!r} on {expected}, got one on {received}")
        return self._sum({name: density.log_prob(wide(values[name])) for name, density in distribution.items()})

    def kl(
        self, context: Any = None, batch_size: int | None = None, *, prior_mean: float = 0.0, prior_scale: float = 1.0
    ) -> Tensor:
        """KL(N(mean, scale^2) || N(prior_mean, prior_scale^2)) summed over leaves and units, (B,) in nats.

        Computed and returned in float32, of a module in float64 in float64, under autocast too. Raises TypeError or
        ValueError for a prior_mean that is not a finite number, a prior_scale not a positive one, and ValueError as
        `distribution` does.
        """
        prior_mean = check_number("prior_mean", prior_mean)
        prior_scale = check_number("prior_scale", prior_scale, "a positive, finite number", lambda scale: scale > 0)
        moments = self._random_moments(context, batch_size)
        for leaf in moments.values():
            check_held("prior_mean", prior_mean, wide(leaf.mean).dtype)
            check_held("prior_scale", prior_scale, wide(leaf.mean).dtype)
        return self._sum({name: kl(leaf, prior_mean, prior_scale) for name, leaf in moments.items()})

    def _random_moments(self, context: Any, batch_size: int | None) -> dict[str, Moments]:
        """The moments of the leaves of floats, which all have noise and are real."""
        batch_size = check_call(batch_size)
        moments = gathered(self, self._precise_moments)(context, batch_size, None)
        expected = "state: expected one of real numbers with noise in every leaf of floats"
        if not self.spec.floats:
            raise ValueError(f"{expected}, got {self.spec.describe()}")
        for leaf in self.spec.floats:
            mean, scale = moments[leaf.name]
            if scale is None or mean.is_complex():
                received = "no noise" if scale is None else "complex numbers"
                raise ValueError(f"{expected}, got a {type(self).__name__} with {received} in {leaf.name!r}")
        return {leaf.name: moments[leaf.name] for leaf in self.spec.floats}

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        sums = [terms[leaf.name].sum(dim=tuple(range(-len(leaf.shape), 0))) for leaf in self.spec.floats]
        return torch.stack(torch.broadcast_tensors(*sums)).sum(0)

"""What every initial state is: a module that returns what its network takes as state.

A state is described by its `moments`: for each leaf a mean and, where the state is random, a scale. The rest (drawing,
tiling over the batch, domains, the network's layout, densities) is the same for all and stands in `InitialState`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from contextual_rnn._numbers import POSITIVE, check_factory, check_flag, check_held, check_number, check_size
from contextual_rnn._precision import is_narrow
from contextual_rnn._saved_numbers import SavesNumbers
from contextual_rnn._sharded import gathered
from contextual_rnn.spec.leaf import rows_of
from contextual_rnn.spec.networks import StateSpec, spec_of
from contextual_rnn.spec.tree import State, pack
from contextual_rnn.states._checked_moments import checked_moments
from contextual_rnn.states._heads import MissingContextError, batch_of, check_call, tile
from contextual_rnn.states._start import Start
from contextual_rnn.states.moments import Moments, draw, draws, of_rows
from contextual_rnn.states.normal_posterior import NormalPosterior
from contextual_rnn.states.posterior import Posterior


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
    # `moments` of a class that can compute them in float32 at least, which its argument `precise` asks for.
    _computed: Callable[..., dict[str, Moments]]
    _alike: Any = False  # whether all rows of a batch have the same moments
    _latent = False  # whether the noise is that of a latent variable, which moments of the state do not have

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        reads: Any = vars(cls).get("reads_context", False)
        if callable(reads) or not (isinstance(reads, bool) or hasattr(reads, "__get__")):
            expected = "True, False or a method with @property"
            raise TypeError(f"{cls.__name__}.reads_context: expected {expected}, got {type(reads).__name__}")
        # The library's own moments are right as they are, and every call of a state would pay for a check.
        moments: Any = cls.moments
        ours = getattr(moments, "__module__", "").startswith("contextual_rnn.") and moments is not InitialState.moments
        cls._moments, cls._alike = (moments, cls._alike) if ours else (InitialState._moments, False)
        # `_computed` knows nothing of moments that a subclass has of its own.
        owner: Any = next((kind for kind in cls.__mro__ if "_computed" in vars(kind)), None)
        cls._is_computed = ours and owner is not None and moments is owner.moments

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

    def check_saved(self, name: str, value: Any) -> None:
        """Raise ValueError for a number that a leaf's dtype does not have."""
        for number in value if isinstance(value, list) else [value]:
            for leaf in self.spec.floats:
                check_held(name, number, self.spec.dtype_of(leaf))

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

    # Any, so that type checkers take both `reads_context = True` and a property in a subclass.
    reads_context: Any = property(lambda self: False, doc="Whether the state depends on the context.")

    @abstractmethod
    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> Mapping[str, Moments]:
        """Mean and scale of every leaf, by name; arguments and errors as for `forward`.

        Of a leaf with a domain they are those of the real numbers that stand for it (see `Leaf`). A state of your own
        may give the mean of one example, `shape`, which is tiled over the batch, and leave out leaves without floats,
        which are what the network starts from then. TypeError or ValueError, which names the class and the leaf, for
        moments of other leaves, shapes, batch sizes or kinds of numbers, and parts on different devices.
        """

    def _moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        """`moments` as all else reads them, checked and whole; where they are the library's, `moments` itself."""
        reads = self.reads_context
        if not reads:
            batch_size = batch_of(context, batch_size, batched)
            batched = batch_size is not None
        try:
            moments = self.moments(context, batch_size, batched)
            moments, size = checked_moments(self, self.spec, moments, context, batch_size, batched)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
            if reads and context is None:  # which some states take, such as one around a ContextDropout
                raise MissingContextError from error
            raise
        return {**self._constants(size), **moments} if self.spec.constants else moments

    def _precise_moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        """The moments for a density, computed in float32 at least where that can be chosen."""
        if self._is_computed:
            return self._computed(context, batch_size, batched, precise=True)
        return self._moments(context, batch_size, batched)

    def _drawn_leaves(
        self, context: Any, batch_size: int | None, batched: bool | None, generator: Any, rows: Tensor | None
    ) -> dict[str, Tensor]:
        moments = of_rows(self._moments, self.spec, context, batch_size, batched, rows, self._alike)
        return {n: draw(leaf, generator) if self.training else leaf.mean for n, leaf in moments.items()}

    def _posterior(
        self,
        context: Any,
        batch_size: int | None,
        batched: bool | None,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
        *,
        drop: bool = True,
    ) -> Posterior:
        """The distribution of the state; with `drop` contexts may be dropped, as in a forward pass."""
        narrow = next((p.dtype for p in self.parameters() if is_narrow(p.dtype)), None)
        moments = of_rows(self._precise_moments, self.spec, context, batch_size, batched, rows, self._alike)
        return NormalPosterior(self.spec, moments, narrow)

    def forward(
        self,
        context: Any = None,
        batch_size: int | None = None,
        *,
        batched: bool | None = None,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
        num_samples: int | None = None,
        return_posterior: bool = False,
    ) -> Any:
        """The state as the network takes it: random in training where the state is random, its mean in evaluation.

        `context` is what the context network takes; one of one example is tiled where `batch_size` is given. Without
        `batch_size` the context says it: the first axis of its first tensor, or how many sequences its first
        PackedSequence holds. With neither, or `batched=False`, the state is of one example unbatched. `generator` makes
        draws repeatable, also where torch.utils.checkpoint recomputes a call. `rows`, (N,) int64: these rows of the
        batch, each a new draw. With `num_samples` the state is that many draws a row, in evaluation too, from one pass
        of the context network: row b * num_samples + s is draw s of row b. With `return_posterior` the result is the
        state and the `Posterior` that it was drawn from.

        Raises ValueError for a context missing or of the wrong batch size, width, dtype or device, ValueError or
        TypeError for other bad arguments, such as no batch size beside a context that has no tensor to say it, and for
        `return_posterior` of a state without any noise; RuntimeError for a draw from `generator` in a backward pass
        that cannot be the same as in the forward pass.
        """
        batch_size = check_call(batch_size, batched, generator)
        if num_samples is None and not return_posterior and not self._latent:
            leaves = self._drawn_leaves(context, batch_size, batched, generator, rows)
            return pack(self.spec.tree, self.spec.constrain(leaves))
        check_flag("return_posterior", return_posterior)
        posterior = self._posterior(context, batch_size, batched, generator, rows)
        if num_samples is not None:
            state = posterior.sample(num_samples, generator)
        else:
            state = posterior.rsample(generator) if self.training else posterior.mean
        if not return_posterior:
            return state
        self._check_noise(posterior)
        return state, posterior

    def posterior(
        self,
        context: Any = None,
        batch_size: int | None = None,
        *,
        batched: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> Posterior:
        """The distribution of the state, whose draws, KL and log-density come from one pass of the context network.

            q = state.posterior(context)
            output, _ = network(x, q.rsample())
            loss = nll + q.kl()

        Arguments and errors as of `forward`; under DDP and FSDP call `model(x, context=context,
        return_posterior=True)` instead, which their hooks see. Raises ValueError too for a state without any noise.
        """
        batch_size = check_call(batch_size, batched, generator)
        posterior = gathered(self, self._posterior)(context, batch_size, batched, generator)
        self._check_noise(posterior)
        return posterior

    def _check_noise(self, posterior: Posterior) -> None:
        if not posterior.has_noise:
            raise ValueError(
                f"state: expected a random state of real numbers, got a {type(self).__name__}, which has no noise"
            )

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
        return self._draws(context, check_size("num_samples", num_samples), batch_size, generator, False)[0]

    def _draws(
        self, context: Any, num_samples: int, batch_size: int | None, generator: torch.Generator | None, once: bool
    ) -> tuple[State, int]:
        """As `sample`, and how many rows a context has: with `once` one where the state has no noise."""
        if self._latent:
            return self._undropped(context, batch_size).sample(num_samples, generator), num_samples
        moments = gathered(self, self._moments)(context, batch_size, None)
        if once and all(leaf.scale is None for leaf in moments.values()):
            num_samples = 1
        drawn = draws(self.spec, moments, num_samples, generator)
        return pack(self.spec.tree, self.spec.constrain(drawn)), num_samples

    def distribution(self, context: Any = None, batch_size: int | None = None) -> dict[str, Normal]:
        """The distribution of every leaf that has noise, of batch shape (B, *leaf.shape), in float32 at least.

        Raises ValueError for a state without any noise, or with noise in complex numbers.
        """
        posterior = self._undropped(context, check_call(batch_size))
        return getattr(posterior, "latent", posterior).distribution

    def log_prob(self, state: State, context: Any = None) -> Tensor:
        """`posterior(context).log_prob(state)`, which has the errors too; contexts are never dropped for it."""
        leaves, first = self.spec.unpack(state), next(iter(self.spec))
        by_context = context is not None and self.reads_context  # of which each may have several draws
        return self._undropped(context, None if by_context else rows_of(first, leaves[first.name])).log_prob(state)

    def kl(
        self, context: Any = None, batch_size: int | None = None, *, prior_mean: float = 0.0, prior_scale: float = 1.0
    ) -> Tensor:
        """`posterior(context).kl((prior_mean, prior_scale))` of two numbers, with its errors; no context is dropped."""
        prior_mean = check_number("prior_mean", prior_mean)
        prior_scale = check_number("prior_scale", prior_scale, *POSITIVE)
        return self._undropped(context, check_call(batch_size)).kl((prior_mean, prior_scale))

    def _undropped(self, context: Any, batch_size: int | None) -> Any:
        posterior = gathered(self, self._posterior)(context, batch_size, None, drop=False)
        self._check_noise(posterior)
        return posterior

    def _refuse_latent(self, name: str, state: InitialState) -> None:
        """Refuse a state whose noise is that of a latent variable, as moments of the states are combined here."""
        if state._latent:
            raise ValueError(f"{name}: expected a state that its moments describe, got a {type(state).__name__}")

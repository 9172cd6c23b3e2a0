"""What every initial state is: a module that returns what its network takes as state.

A state is described by its `moments`: for each leaf a mean and, where the state is random, a scale. The rest (drawing,
tiling over the batch, the network's layout) is the same for all states and stands in `InitialState`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import check_size
from contextual_rnn._sharded import gathered
from contextual_rnn._tree import State
from contextual_rnn.state_spec import StateSpec, state_spec
from contextual_rnn.states._heads import check_call
from contextual_rnn.states.moments import Moments, draw, of_rows


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
        unbatched. `generator` makes draws repeatable, also where torch.utils.checkpoint recomputes a call. `rows`,
        (N,) int64: these rows of the batch, each a new draw.

        Raises ValueError for a context missing or of the wrong batch size, width, dtype or device, ValueError or
        TypeError for other bad arguments; RuntimeError for a draw from `generator` in a backward pass that cannot be
        the same as in the forward pass.
        """
        batch_size = check_call(batch_size, batched, generator)
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
        batch_size = check_call(batch_size, generator=generator)
        num_samples = check_size("num_samples", num_samples)
        moments, leaves = gathered(self, self.moments)(context, batch_size, None), {}
        for leaf in self.spec:
            mean, scale = moments[leaf.name]
            batched = mean.ndim > len(leaf.shape)
            if isinstance(scale, Tensor) and scale.ndim > len(leaf.shape):
                scale = scale.repeat_interleave(num_samples, 0)
            mean = mean.repeat_interleave(num_samples, 0) if batched else mean.expand(num_samples, *mean.shape)
            leaves[leaf.name] = draw(Moments(mean, scale), generator)
        return self.spec.pack(leaves)

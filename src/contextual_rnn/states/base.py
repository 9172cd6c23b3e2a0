"""What every initial state is: a module that returns what its network takes as state.

A state is described by its `moments`: for each leaf a mean and, where the state is random, a scale. The rest (drawing,
tiling over the batch, the network's layout) is the same for all states and stands in `InitialState`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn._numbers import check_factory, check_size
from contextual_rnn._saved_numbers import SavesNumbers
from contextual_rnn._sharded import gathered
from contextual_rnn.spec.networks import StateSpec, spec_of
from contextual_rnn.spec.tree import State, pack
from contextual_rnn.states._heads import check_call, tile
from contextual_rnn.states._start import Start
from contextual_rnn.states.moments import Moments, draw, of_rows


class InitialState(SavesNumbers, ABC):
    """An initial state for `network` (or a `StateSpec`): a module that returns what the network takes as state.

    `spec` describes the state. `device` and `dtype` are those of the parameters, by default the network's; a leaf with
    a dtype of its own keeps it. A leaf without floats is a constant. A state of your own lists in `saved_numbers` which
    of its attributes are numbers that state_dicts and files have to restore.

    Raises TypeError for a network without a registered spec, TypeError or ValueError for a device or dtype that
    parameters cannot have.
    """

    _start: Start | None = None  # what the buffers `value_...` start as

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

    def _keep(self, leaves: dict[str, Tensor], value: float | State) -> None:
        """Keep leaves that are no parameters as buffers, and what they start as."""
        for name, tensor in leaves.items():
            self.register_buffer(f"value_{name}", tensor)
        self._start = Start.of(value, leaves) if leaves else None

    def reset_parameters(self) -> None:
        """Start anew as the constructor does, such as after `to_empty`; `net` is reset by itself.

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
    def moments(self, context: Any, batch_size: int | None, batched: bool | None) -> dict[str, Moments]:
        """Mean and scale of every leaf; arguments and errors as for `forward`."""

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
        moments = of_rows(self.moments(context, batch_size, batched), self.spec, rows)
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
        moments, leaves = gathered(self, self.moments)(context, batch_size, None), {}
        for leaf in self.spec:
            mean, scale = moments[leaf.name]
            batched = mean.ndim > len(leaf.shape)
            if isinstance(scale, Tensor) and scale.ndim > len(leaf.shape):
                scale = scale.repeat_interleave(num_samples, 0)
            mean = mean.repeat_interleave(num_samples, 0) if batched else mean.expand(num_samples, *mean.shape)
            leaves[leaf.name] = draw(Moments(mean, scale), generator)
        return pack(self.spec.tree, leaves)

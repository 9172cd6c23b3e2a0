"""Training steps on a GPU, captured as CUDA graphs: the host takes ten times as long to launch kernels as they run."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from contextual_rnn.experiments.training.flat_adam import FlatAdam
from contextual_rnn.experiments.training.task import Task
from contextual_rnn.ops._fast_weights.options import holding_tables

Result = TypeVar("Result")

WARM_UP = 3  # passes before a capture, in which libraries compile and allocate; PyTorch asks for some

# Runs of a stack are threads of one process, which captures for one of them at a time.
_CAPTURING = threading.Lock()


class Captured(NamedTuple, Generic[Result]):
    """A graph, the result that each replay overwrites, and all else that it reads by address and so must keep alive."""

    graph: torch.cuda.CUDAGraph
    result: Result
    tables: dict[Any, Any]  # of decay, see `holding_tables`

    def replay(self) -> Result:
        self.graph.replay()
        return self.result


class _CapturedBatch(NamedTuple):
    batch: tuple[Tensor, ...]  # where the graph reads its batch
    step: Captured[Tensor]


class CapturedStep:
    """The whole step of a task (loss, gradients, Adam): captured at the first batch of each size, then replayed.

    A loss that is not finite changes nothing. Random states are drawn on the GPU, by a generator that is seeded for
    each batch: the same numbers every time, and others than on a CPU.
    """

    def __init__(self, task: Task[Any], optimizer: FlatAdam):
        self._task, self._optimizer = task, optimizer
        device = optimizer.gradient.device
        self._generator = torch.Generator(device)
        self._learning_rate, self._filled = torch.zeros((), device=device), 0.0
        self._captured: dict[int, _CapturedBatch] = {}

    def __call__(self, batch: tuple[Tensor, ...], seed: int, learning_rate: float) -> float:
        """Train on `batch` and return its loss."""
        size = len(batch[0])
        if size not in self._captured:
            self._captured[size] = self._capture(batch)
        captured = self._captured[size]
        for place, tensor in zip(captured.batch, batch, strict=True):
            place.copy_(tensor)
        if learning_rate != self._filled:
            self._learning_rate.fill_(learning_rate)
            self._filled = learning_rate
        self._generator.manual_seed(seed)
        return captured.step.replay().item()

    def _capture(self, batch: tuple[Tensor, ...]) -> _CapturedBatch:
        batch = tuple(tensor.clone() for tensor in batch)
        still = functools.partial(self._step, batch, still=True)
        return _CapturedBatch(batch, capture(still, lambda: self._step(batch), self._generator))

    def _step(self, batch: tuple[Tensor, ...], *, still: bool = False) -> Tensor:
        """The captured step. With `still` every kernel runs, and no parameter changes."""
        loss = self._task.loss(batch, self._generator)
        self._optimizer.differentiate(loss)
        skip = loss.detach().isfinite().logical_not().float()
        self._optimizer.step(self._learning_rate, skip=skip.fill_(1) if still else skip)
        return loss.detach()


def capture(
    warm_up: Callable[[], object], run: Callable[[], Result], generator: torch.Generator | None = None
) -> Captured[Result]:
    """A graph of what `run` does, after some calls of `warm_up`.

    A replay draws from `generator` as it then stands.
    """
    with _CAPTURING, holding_tables() as tables:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                warm_up()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            result = run()
    return Captured(graph, result, tables)

"""What a forward pass drew, repeated where torch.utils.checkpoint runs it once more in the backward pass.

torch puts back its own generators there, but not one that was given as `generator`. So every draw from such a
generator inside a checkpointed call leaves the generator's state with that call, and the recomputation draws from it.
A call of checkpoint is recognised by its frames on Python's stack: torch has no other sign of it in all versions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, GeneratorType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import checkpoint

from contextual_rnn._torch_internals import graph_task, top_saved_tensors_hooks

Value = TypeVar("Value")

_CHECKPOINT = checkpoint.__file__


class _Record:
    """What one checkpointed call drew, in order, and how far its present recomputation has read it."""

    def __init__(self) -> None:
        self.entries: list[tuple[object, Any]] = []
        self.run: object = None
        self.position = 0

    def next(self, run: object) -> tuple[object, Any] | None:
        if run != self.run:
            self.run, self.position = run, 0
        self.position += 1
        return self.entries[self.position - 1] if self.position <= len(self.entries) else None


def draw_again(draw: Callable[[], Tensor], generator: torch.Generator | None) -> Tensor:
    """draw(), which draws from `generator`; the same draw once more where a checkpointed call is recomputed.

    Raises RuntimeError in a backward pass for a draw that no call of torch.utils.checkpoint is known to have made.
    """
    if generator is None or torch.compiler.is_compiling() or _is_plain_forward():
        return draw()  # without a generator torch repeats the draw itself
    recording, entry, repeats = _look_up()
    if not repeats:
        if graph_task() != -1:
            raise RuntimeError(_REFUSED)
        for record in recording:
            record.entries.append((generator, generator.get_state()))
        return draw()
    if entry is None or entry[0] is not generator:
        raise RuntimeError(_REFUSED)
    for record in recording:
        record.entries.append(entry)
    now = generator.get_state()
    generator.set_state(entry[1])
    try:
        return draw()
    finally:
        generator.set_state(now)


def compute_again(compute: Callable[[], Value]) -> Value:
    """compute(), which reads what changes between steps; its value of then where a checkpointed call is recomputed."""
    if torch.compiler.is_compiling() or _is_plain_forward():
        return compute()
    recording, entry, _ = _look_up()
    value = entry[1] if entry is not None and entry[0] is compute_again else compute()
    for record in recording:
        record.entries.append((compute_again, value))
    return value


_REFUSED = (
    "generator: expected a draw that torch.utils.checkpoint can repeat, got one in the backward pass that the forward "
    "pass is not known to have made; draw the state outside of the checkpointed function, or without a generator"
)


def _is_plain_forward() -> bool:
    """A quick answer for almost every call; False says nothing."""
    return (
        torch.is_grad_enabled()  # not in the forward pass of a reentrant checkpoint
        and graph_task() == -1
        and top_saved_tensors_hooks(True) is None  # with none set, only a reentrant checkpoint can be under way
    )


def _look_up() -> tuple[list[_Record], tuple[object, Any] | None, bool]:
    """Records of the checkpointed calls under way, what the innermost recomputation repeats, and whether there is one.

    Calls around a recomputation are left out: it is theirs in their own recomputation too.
    """
    recording: list[_Record] = []
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code.co_filename == _CHECKPOINT:
            name = frame.f_code.co_name
            if name == "unpack_hook":
                local = frame.f_locals
                return recording, _record_of(local["frame"]).next(local["gid"]), True
            if name == "backward":
                task = graph_task()
                return recording, _record_of(frame.f_locals["ctx"]).next(task), True
            if name == "forward" and "ctx" in frame.f_locals:  # checkpoint_sequential has a function of that name too
                recording.append(_record_of(frame.f_locals["ctx"]))
            elif isinstance(run := frame.f_locals.get("gen"), GeneratorType) and run.gi_frame is not None:
                recording.append(_record_of(run.gi_frame.f_locals["new_frame"]))
        frame = frame.f_back
    return recording, None, False


def _record_of(call: Any) -> _Record:
    """The record of a call, kept with what torch itself keeps for its recomputation."""
    record = getattr(call, "_contextual_rnn_record", None)
    if record is None:
        record = call._contextual_rnn_record = _Record()
    return record

"""Where a run stands, in one file from which it goes on to the same bits.

The file is safetensors: tensors by name, the rest as JSON in its metadata. Reading one cannot execute code.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from contextual_rnn._whole_file import write_whole

# Of the time between two checkpoints at most this fraction goes into writing one, whatever the interval says.
LARGEST_COST = 0.01


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps.

    `losses` is the sum over the steps of the epoch that has begun, `metrics` the lines of all finished epochs,
    `seconds` the time trained so far, `tensors` whatever else training goes on from.
    """

    step: int
    losses: float
    metrics: list[dict[str, float]]
    seconds: float
    tensors: dict[str, Tensor]


def save(path: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Write `checkpoint` of the run `identity`; raises OSError, which names the file and leaves the one before."""
    rest = {name: getattr(checkpoint, name) for name in ("step", "losses", "metrics", "seconds")}
    progress = json.dumps({"identity": identity, **rest})
    metadata = {"progress": progress, "digest": _digest(progress, checkpoint.tensors)}
    write_whole(path, safetensors.torch.save(checkpoint.tensors, metadata))


def load(path: Path, identity: str) -> Checkpoint:
    """The checkpoint of the run `identity` in `path`.

    Raises ValueError, which names the file, where it is damaged, cut off, of another run, or no checkpoint at all.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            # Copied: safetensors' own memory may be aligned otherwise than PyTorch's.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise _refused(path, str(error)) from error
    if not {"progress", "digest"} <= metadata.keys():
        raise _refused(path, "a safetensors file that is no checkpoint")
    if metadata["digest"] != _digest(metadata["progress"], tensors):
        raise _refused(path, "one whose contents do not match their digest")
    progress: dict[str, Any] = json.loads(metadata["progress"])
    if (found := progress.pop("identity")) != identity:
        raise _refused(path, f"one of run {found}, not {identity}")
    return Checkpoint(**progress, tensors=tensors)


def _refused(path: Path, got: str) -> ValueError:
    return ValueError(
        f"checkpoint: expected one that this run has written in {path}, got {got}; without the file the run starts "
        "again from the beginning"
    )


def _digest(progress: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(progress.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().numpy().data)
    return digest.hexdigest()


class Timer:
    """Says when the next checkpoint is due: every `seconds`, less often where writing one takes long.

    0 seconds: after every step. The clock is monotonic, so that a wall clock that jumps has no say.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._due = time.monotonic() + seconds

    def due(self) -> bool:
        return time.monotonic() >= self._due

    def written(self, cost: float) -> None:
        """A checkpoint was written in `cost` seconds."""
        self._due = time.monotonic() + (max(self._seconds, cost / LARGEST_COST) if self._seconds else 0)

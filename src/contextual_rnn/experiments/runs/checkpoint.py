"""The state of a run in one file, from which it continues to the same bits.

The file is safetensors: tensors by name, the rest as JSON in its metadata. Reading one cannot execute code.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._numbers import shortened_text
from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.runs.json_file import check, json_object
from contextual_rnn.serialization.file_format import read_safetensors, safetensors_bytes

PROGRESS = {"identity": str, "step": int, "losses": float, "metrics": [{str: float}], "seconds": float}
# Writing a checkpoint takes at most this fraction of the time between two, whatever interval is asked for.
LARGEST_COST = 0.01


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps.

    `losses` is the sum over the steps of the epoch that has begun, `metrics` the lines of all finished epochs,
    `seconds` the time trained so far, `tensors` everything else that training continues from.
    """

    step: int
    losses: float
    metrics: list[dict[str, float]]
    seconds: float
    tensors: dict[str, Tensor]


def save(path: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Write `checkpoint` of the run `identity`; raises OSError, which names the file and leaves the one before."""
    rest = {name: getattr(checkpoint, name) for name in PROGRESS if name != "identity"}
    progress = json.dumps({"identity": identity, **rest})
    metadata = {"progress": progress, "digest": _digest(progress, checkpoint.tensors)}
    write_whole(path, safetensors_bytes(checkpoint.tensors, metadata))


def load(path: Path, identity: str) -> Checkpoint:
    """The checkpoint of the run `identity` in `path`.

    Raises ValueError, which names the file, where it is damaged, cut off, of another run, or no checkpoint at all, and
    OSError where it cannot be read.
    """
    try:
        metadata, tensors = read_safetensors(path)
        if not {"progress", "digest"} <= metadata.keys():
            raise ValueError("a safetensors file that is no checkpoint")
        if metadata["digest"] != _digest(metadata["progress"], tensors):
            raise ValueError("one whose contents do not match their digest")
        progress = _progress(metadata["progress"], path)
        if progress["identity"] != identity:
            raise ValueError(f"one of run {progress['identity']}, not {identity}")
    except ValueError as error:
        raise ValueError(
            f"checkpoint: expected one that this run has written in {path}, got {shortened_text(error)}; without the "
            "file the run starts again from the beginning"
        ) from error
    rest = {name: progress[name] for name in PROGRESS if name != "identity"}
    # Copies: kernels may round differently where memory is not aligned like torch's own.
    return Checkpoint(**rest, tensors={name: tensor.clone() for name, tensor in tensors.items()})


def _progress(text: str, path: Path) -> dict[str, Any]:
    """What `save` wrote beside the tensors. Raises ValueError for anything else."""
    try:
        progress = json_object(text, path)
        check(progress, PROGRESS, path)
    except ValueError as error:
        raise ValueError(f"one with other progress: {error}") from error
    if more := sorted(progress.keys() - PROGRESS.keys()):
        raise ValueError(f"one with more entries than a checkpoint has: {', '.join(more)}")
    if progress["seconds"] < 0:
        raise ValueError(f"one with seconds below 0: {progress['seconds']}")
    return progress


def _digest(progress: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(progress.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)  # numpy has no bfloat16
    return digest.hexdigest()


class Timer:
    """Says when the next checkpoint is due: every `seconds`, less often where writing one takes long.

    0 seconds: after every step. The clock is monotonic, so that changes of the wall clock have no effect.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._due = time.monotonic() + seconds

    def due(self) -> bool:
        return time.monotonic() >= self._due

    def written(self, cost: float) -> None:
        """A checkpoint was written in `cost` seconds."""
        self._due = time.monotonic() + (max(self._seconds, cost / LARGEST_COST) if self._seconds else 0)

"""The trained weights of a run."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from contextual_rnn.experiments.config import Config, config_to_dict
from contextual_rnn.experiments.runs.folder import WEIGHTS, Run, differing_options, has_weights, parsed_config
from contextual_rnn.experiments.runs.json_file import json_object
from contextual_rnn.experiments.tasks.registry import build_task


def load_model(run: Run) -> nn.Module:
    """The trained model of a run, in evaluation mode.

    Raises ValueError, which names the file, where there are no weights, or not those of its configuration.
    """
    weights = run.folder / WEIGHTS
    if not has_weights(run):
        raise ValueError(f"run: expected trained weights, got none in {run.folder}")
    try:
        # The configuration first: a model of another one may be too large for this machine.
        tensors = _read_weights(weights, run.config)
        model = build_task(run.config).model
        expected = model.state_dict()
        if differ := [name for name in {**expected, **tensors} if not _alike(expected.get(name), tensors.get(name))]:
            raise ValueError(f"they differ in {', '.join(sorted(differ))}")
        model.load_state_dict(tensors)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"run: expected the weights of its configuration in {weights}, got others: {error}") from error
    return model.eval()


def _read_weights(path: Path, config: Config) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError("no file")
    with safetensors.safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError("weights without a configuration")
        written = parsed_config(json_object(metadata["config"], path), path)
        if differ := differing_options(written, config):
            raise ValueError(f"those of a configuration that differs in {differ}")
        # Copied: safetensors' own memory may be aligned otherwise than PyTorch's.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    if bad := sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all()):
        raise ValueError(f"values that are not finite in {', '.join(bad)}")
    return tensors


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and (one.shape, one.dtype) == (other.shape, other.dtype)


def _weights(model: nn.Module, config: Config) -> bytes:
    metadata = {"config": json.dumps(config_to_dict(config), sort_keys=True)}
    return safetensors.torch.save(model.state_dict(), metadata)

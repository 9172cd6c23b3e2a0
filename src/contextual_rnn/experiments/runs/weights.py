"""The trained weights of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contextual_rnn.experiments.config import Config, config_to_dict
from contextual_rnn.experiments.runs.folder import WEIGHTS, Run, differing_options, has_weights, parsed_config
from contextual_rnn.experiments.runs.json_file import json_object
from contextual_rnn.experiments.tasks.registry import build_task
from contextual_rnn.experiments.training.task import Task
from contextual_rnn.serialization.file_format import check_tensors, read_safetensors, safetensors_bytes


def load_task(run: Run) -> Task[Any]:
    """The task of a run with its trained model, in evaluation mode.

    Raises ValueError, which names the file, where there are no weights, or not those of its configuration.
    """
    weights = run.folder / WEIGHTS
    if not has_weights(run):
        raise ValueError(f"run: expected trained weights, got none in {run.folder}")
    try:
        # The configuration first: a model of another one may be too large for this machine.
        tensors = _read_weights(weights, run.config)
        task = build_task(run.config)
        check_tensors("model", task.model.state_dict(), tensors)
        task.model.load_state_dict(tensors)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"run: expected the weights of its configuration in {weights}, got others: {error}") from error
    task.model.eval()
    return task


def load_model(run: Run) -> nn.Module:
    """The trained model of a run, in evaluation mode; raises what `load_task` does."""
    return load_task(run).model


def _read_weights(path: Path, config: Config) -> dict[str, Tensor]:
    metadata, tensors = read_safetensors(path)
    if "config" not in metadata:
        raise ValueError("weights without a configuration")
    written = parsed_config(json_object(metadata["config"], path), path)
    if differ := differing_options(written, config):
        raise ValueError(f"those of a configuration that differs in {differ}")
    return tensors


def weights_bytes(model: nn.Module, config: Config) -> bytes:
    """The file of a run's weights: safetensors, with the configuration in its metadata."""
    metadata = {"config": json.dumps(config_to_dict(config), sort_keys=True)}
    return safetensors_bytes(model.state_dict(), metadata)

"""The trained model to use, as a folder, and its predictions for a new table."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config import PanelConfig
from contextual_rnn.experiments.panels import Encoding
from contextual_rnn.experiments.runs.json_file import read_json
from contextual_rnn.experiments.tasks.panel_model import PanelModel
from contextual_rnn.serialization.file_format import check_tensors, read_safetensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
OPTIONS = ("state", "network", "units", "features")  # of a model; the others are of its training


class Predictor:
    """A trained model with the coding of its table: `predict` applies it to a table of the same columns.

        predictor = Predictor.from_pretrained("runs/compare/winner")
        predictions = predictor.predict("new.parquet")

    `model` is the torch module and `encoding` says how columns become its numbers.
    """

    def __init__(self, model: PanelModel, config: PanelConfig, encoding: Encoding):
        self.model, self.config, self.encoding = model.eval(), config, encoding

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS, safetensors.torch.save(self.model.state_dict()))
        options = {name: getattr(self.config, name) for name in OPTIONS}
        content = {"model": options, "encoding": json.loads(self.encoding.to_json())}
        write_whole(folder / CONFIG, json.dumps(content, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Predictor:
        """The model in a folder. Raises ValueError, which names the file, where one is missing or damaged."""
        path = Path(folder) / CONFIG
        content = read_json(path)
        try:
            config = PanelConfig(**content["model"])
            encoding = Encoding.from_json(json.dumps(content["encoding"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"config: expected the options of a model in {path}, got others: {error}") from error
        with torch.random.fork_rng(devices=[]):
            model = PanelModel(config, encoding)
        _load(model, Path(folder) / WEIGHTS)
        return cls(model, config, encoding)


def _load(model: PanelModel, path: Path) -> None:
    try:
        _, tensors = read_safetensors(path)
        check_tensors("model", model.state_dict(), tensors)
    except (OSError, ValueError) as error:
        raise ValueError(f"weights: expected those of the model in {path}, got others: {error}") from error
    model.load_state_dict(tensors)

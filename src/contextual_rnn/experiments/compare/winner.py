"""The trained model to use, as a folder, and its predictions for a new table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy
import torch

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config import PanelConfig
from contextual_rnn.experiments.panels import Encoding, Examples, PanelData, prepare_new
from contextual_rnn.experiments.runs.folder import folder_of
from contextual_rnn.experiments.runs.json_file import read_json
from contextual_rnn.experiments.tasks.networks import own_files
from contextual_rnn.experiments.tasks.panel import parts_of, predicted
from contextual_rnn.experiments.tasks.panel_model import PanelModel
from contextual_rnn.serialization.file_format import check_tensors, read_safetensors, safetensors_bytes

CONFIG, WEIGHTS = "predictor.json", "model.safetensors"  # not config.json: that is a run
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
        """Write predictor.json and model.safetensors into `folder`."""
        folder = folder_of(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS, safetensors_bytes(self.model.state_dict(), {}))
        options = {name: getattr(self.config, name) for name in OPTIONS}
        content = {"model": options, "encoding": json.loads(self.encoding.to_json())}
        write_whole(folder / CONFIG, json.dumps(content, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path | str, network: str | None = None) -> Predictor:
        """The model in a folder; `network` is FILE.py:NAME of a network of one's own, whose file is run.

        Raises ValueError, which names the file, where one is missing or damaged, and where the folder has a network of
        a file and `network` does not name one: a folder from elsewhere runs no code by itself.
        """
        path = folder_of(folder) / CONFIG
        if not path.exists():
            raise ValueError(f"folder: expected the folder winner of a comparison, with {CONFIG}, got {folder}")
        content = read_json(path)
        try:
            config = PanelConfig(**content["model"])
            encoding = Encoding.from_json(json.dumps(content["encoding"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"config: expected the options of a model in {path}, got others: {error}") from error
        if network is not None:
            config = dataclasses.replace(config, network=network)
        elif own_files(config.network):
            raise ValueError(
                f"network: expected FILE.py:NAME, for {path} asks to run {config.network}, and a folder alone runs no "
                "code; got None"
            )
        with torch.random.fork_rng(devices=[]):
            model = PanelModel(config, encoding)
        _load(model, path.with_name(WEIGHTS))
        return cls(model, config, encoding)

    def predict(self, table: Any) -> Any:
        """Predictions for a table of the same columns, which may lack the target, as an Arrow table.

        Columns: `series`; `row`, the row of the table, from 0, where the target is one of every step; `prediction`, in
        the target's own unit, or the most probable class with its `probability`; of a distribution of states `low` and
        `high` too, the 5 % and 95 % quantiles over draws of the state. Steps within the first window of a series, and
        those that fill a gap, have no prediction; `read` says how many. Raises ValueError or TypeError for a table that
        is refused, or has no step that can be predicted.
        """
        return self.predict_data(self.read(table))

    def read(self, table: Any) -> PanelData:
        """A table as the model takes it. Its `summary` has the rows that are left out, by reason, and the warnings."""
        data = prepare_new(table, self.encoding)
        if not len(data.test):
            steps, window = data.summary["steps"]["longest"], self.encoding.columns.window
            raise ValueError(
                f"table: expected series of more steps than the window, {window}, before each start, got "
                f"{data.summary['series']} of at most {steps}"
            )
        return data

    def predict_data(self, data: PanelData) -> Any:
        """The predictions of `predict` for a table that `read` has read."""
        import pyarrow

        parts = [self._part(data, examples) for examples in parts_of(data.test, self.model.arm)]
        return pyarrow.concat_tables(parts, promote_options="permissive")

    @torch.no_grad()
    def _part(self, data: PanelData, examples: Examples) -> Any:
        import pyarrow

        batch, per_step = data.batch(examples), data.target.per == "step"
        prediction, draws = predicted(self.model, batch)
        rows = data.table_rows(examples) if per_step else numpy.arange(len(examples))
        known = torch.from_numpy(rows >= 0)
        codes = numpy.repeat(examples.series, known.reshape(len(examples), -1).sum(1).numpy())
        columns: dict[str, Any] = {"series": [data.panel.series_names[code] for code in codes]}
        if per_step:
            columns["row"] = rows[rows >= 0]
        if data.target.kind == "category":
            probability, place = prediction.softmax(-1).max(-1)
            columns["prediction"] = [data.target.classes[index] for index in place[known].tolist()]
            columns["probability"] = probability[known].numpy()
        else:
            columns["prediction"] = data.unscale(prediction)[known].numpy()
            if draws is not None:
                for name, level in (("low", 0.05), ("high", 0.95)):
                    columns[name] = data.unscale(draws.quantile(level, 1))[known].numpy()
        return pyarrow.table(columns)


def _load(model: PanelModel, path: Path) -> None:
    try:
        _, tensors = read_safetensors(path)
        check_tensors("model", model.state_dict(), tensors)
    except (OSError, ValueError) as error:
        raise ValueError(f"weights: expected those of the model in {path}, got others: {error}") from error
    model.load_state_dict(tensors)


def write_table(table: Any, path: Path) -> None:
    """Write an Arrow table as Parquet or, where the name ends in .csv, as CSV; a reader sees it whole or not at all."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    buffer = pyarrow.BufferOutputStream()
    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    write(table, buffer)
    write_whole(path, buffer.getvalue().to_pybytes())

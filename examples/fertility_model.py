"""The data and the forecasters of fertility.py: neuralforecast's LSTM, with its static covariates where an arm says."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
import pandas
import torch
from bokeh_sampledata import gapminder
from neuralforecast import NeuralForecast
from neuralforecast.models import LSTM
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextState, FreeState, InitialState, attach, given_context

REGIONS = 6
MEAN, SCALE = 4.0, 2.0  # births per woman, about
HORIZON, TEST = 5, 14  # years: each forecast, and those that are never trained on


def contextual(lstm: nn.LSTM) -> InitialState:
    return ContextState(lstm, nn.Sequential(nn.Linear(REGIONS, 16), nn.Tanh()), zero_init=True)


@dataclass(frozen=True)
class Arm:
    state: Callable[[nn.LSTM], InitialState] = ConstantState
    every_step: bool = False
    shuffled: bool = False


ARMS = {
    "zeros": Arm(),
    "learned state": Arm(FreeState),
    "state from the region": Arm(contextual),
    "region at every step": Arm(every_step=True),
    "state and every step": Arm(contextual, every_step=True),
    "state from another's region": Arm(contextual, shuffled=True),
}


def tables() -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(births - MEAN) / SCALE by country and year; regions, true ones and then those of another country."""
    births = gapminder.fertility.dropna()
    births = births[births.index.isin(gapminder.regions.index)]
    series = births.rename_axis("unique_id").reset_index().melt("unique_id", var_name="ds", value_name="y")
    indicator = pandas.get_dummies(gapminder.regions.loc[births.index, "Group"], dtype=float)
    order = numpy.random.default_rng(0).permutation(len(indicator))
    others = indicator.iloc[order].set_index(indicator.index).add_prefix("other: ")
    static = pandas.concat([indicator, others], axis=1).rename_axis("unique_id").reset_index()
    return series.assign(ds=series["ds"].astype(int), y=(series["y"] - MEAN) / SCALE), static


class Forecaster(LSTM):
    """neuralforecast's LSTM, which gives its static covariates to where an arm says."""

    arm: Arm

    def forward(self, windows_batch: dict) -> Tensor:
        true, others = windows_batch["stat_exog"].chunk(2, -1)
        shown = torch.cat([true * self.arm.every_step, torch.zeros_like(others)], -1)
        with given_context(others if self.arm.shuffled else true):
            return super().forward({**windows_batch, "stat_exog": shown})


def errors_of(history: int, seed: int, updates: int, units: int, rate: float) -> dict[str, pandas.DataFrame]:
    """Of every arm and of the last value, a line a country and year of the forecast, a column a year ahead."""
    series, static = tables()
    models = []
    for name, arm in ARMS.items():
        model = Forecaster(
            h=HORIZON, input_size=history, stat_exog_list=list(static.columns[1:]), alias=name, random_seed=seed,
            encoder_n_layers=1, encoder_hidden_size=units, decoder_hidden_size=units,
            max_steps=updates, learning_rate=rate, num_lr_decays=3, windows_batch_size=256, scaler_type="identity",
            accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        model.arm = arm
        attach(model.hist_encoder, arm.state(model.hist_encoder))
        models.append(model)
    forecasts = NeuralForecast(models, freq=1).cross_validation(series, static, n_windows=None, test_size=TEST)
    last = series.rename(columns={"ds": "cutoff", "y": "last value"})
    forecasts = forecasts.merge(last, on=["unique_id", "cutoff"])
    forecasts["ahead"] = forecasts["ds"] - forecasts["cutoff"]
    errors = forecasts.set_index(["unique_id", "cutoff", "ahead"])
    return {name: SCALE * (errors[name] - errors["y"]).abs().unstack("ahead") for name in ("last value", *ARMS)}

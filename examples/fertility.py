"""Births per woman in 202 countries, forecast by neuralforecast's LSTM: what the region is worth, and where to put it.

    pip install neuralforecast bokeh-sampledata && python examples/fertility.py

The network reads the last years of a country and forecasts five more. Its static covariate is the country's region, one
of six. The region is given to the initial state, to every step (as neuralforecast does it), to both, or to neither.
Controls: a learned state without a context, and a state from the region of another country, at random. A short history
says less of a country than a long one: two lengths are compared. All arms of a seed have the same weights before
training and forecast the same countries. `gain_over` compares their errors, with an interval over random seeds and
random countries.

Births per woman of 1964 to 2013, and regions: Gapminder (https://www.gapminder.org/data), inside bokeh-sampledata; its
record of licences says CC BY 2.0. Years between surveys are interpolated there, which makes a forecast easy.
"""

import logging
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
import pandas
import tyro
from evidence import FAINT, over_seeds, styled, write, write_picture
from fertility_model import ARMS, errors_of
from matplotlib.figure import Figure
from tqdm import tqdm

from contextual_rnn.experiments.stats.verdict import Errors, gain_over


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    histories: tuple[int, ...] = (2, 10)
    """Years that a forecast reads."""
    updates: int = 600
    units: int = 32
    rate: float = 5e-3
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


def gain(baseline: Errors, arm: Errors) -> dict[str, object]:
    """The share of the baseline's error that an arm saves, with an interval over seeds and countries."""
    share = gain_over(baseline, arm).share
    by_seed = (baseline.by_series() - arm.by_series()).mean(1) / baseline.mean()
    return {"mean": share.estimate, "seeds": by_seed.tolist(), "interval": [share.low, share.high]}


def figures_of(runs: list[dict[str, pandas.DataFrame]]) -> dict[str, dict[str, object]]:
    """By arm, of the errors of every seed."""
    countries = runs[0]["zeros"].index.get_level_values("unique_id").tolist()
    errors = {name: Errors(numpy.stack([run[name].to_numpy() for run in runs]), countries) for name in runs[0]}
    figures: dict[str, dict[str, object]] = {}
    for name, of_arm in errors.items():
        figures[name] = {"error": over_seeds(of_arm.by_series().mean(1))}
        for baseline in ("zeros", "region at every step"):
            if name not in (baseline, "last value"):
                figures[name][f"saved of the error: {baseline}"] = gain(errors[baseline], of_arm)
    return figures


@styled()
def draw(figures: dict[int, dict[str, dict]]) -> Figure:
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    places = numpy.arange(len(figures))
    for number, name in enumerate(["last value", *ARMS]):
        style = {"color": FAINT, "linestyle": ":" if name == "last value" else "--"} if number < 2 else {}
        errors = [found[name]["error"]["mean"] for found in figures.values()]
        lines = left.plot(places, errors, "o-", label=name, **style)
        if number >= 2:
            gains = [found[name]["saved of the error: zeros"] for found in figures.values()]
            shifted = places + 0.1 * (number - 4)
            right.plot(shifted, [100 * each["mean"] for each in gains], "o", color=lines[0].get_color())
            for place, each in zip(shifted, gains, strict=True):
                right.plot([place] * 2, [100 * end for end in each["interval"]], color=lines[0].get_color())
    for axes in (left, right):
        axes.set_xticks(places, [f"{years}" for years in figures])
        axes.set_xlabel("years that the forecast reads")
    left.set(ylabel="error, births per woman", ylim=(0, None))
    right.set(ylabel="saved of the error from zeros, %")
    right.axhline(0, color=FAINT, linestyle="--")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, histories=(2, 5), updates=3)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    started, figures = time.perf_counter(), {}
    for history in options.histories:
        seeds = tqdm(range(options.seeds), desc=f"{history} years", leave=False)
        runs = [errors_of(history, seed, options.updates, options.units, options.rate) for seed in seeds]
        figures[history] = figures_of(runs)
        named = {f"{years} years": found for years, found in figures.items()}
        write(options.out / "fertility.json", asdict(options), named, started)  # it takes a while
    write_picture(options.out / "fertility.png", draw(figures))


if __name__ == "__main__":
    main(tyro.cli(Options))

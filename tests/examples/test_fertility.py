"""The forecasters of fertility get their covariates where their arm says, and the example runs in its small setting."""

import importlib

import pytest
import torch
from tests.examples.running import EXAMPLES, run
from torch import nn

pytest.importorskip("neuralforecast", reason="`make integrations`")
pytest.importorskip("bokeh_sampledata", reason="`make integrations`")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("fertility_model")


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("fertility", tmp_path)
    arms = [*importlib.import_module("fertility_model").ARMS]
    assert list(figures) == ["2 years", "5 years"]
    for found in figures.values():
        assert list(found) == ["last value", *arms]
        errors = {name: of_arm["error"]["seeds"] for name, of_arm in found.items()}
        assert errors["last value"][0] == pytest.approx(errors["last value"][1])
        assert len({tuple(of_arm) for of_arm in errors.values()}) > 4, "each is another"
        mean = sum(errors["zeros"]) / 2
        for name in arms[1:]:
            saved = found[name]["saved of the error: zeros"]
            assert saved["seeds"] == pytest.approx(
                [(zeros - ours) / mean for zeros, ours in zip(errors["zeros"], errors[name], strict=True)]
            )
            assert saved["interval"][0] <= saved["mean"] <= saved["interval"][1]


def test_the_data_are_what_the_page_says(model):
    series, static = model.tables()
    assert sorted(series["ds"].unique()) == [*range(1964, 2014)]
    countries = set(static["unique_id"])
    assert set(series["unique_id"]) == countries
    assert len(series) == 50 * len(countries) > 50 * 180
    assert (model.MEAN + model.SCALE * series["y"]).between(0.8, 9.3).all()
    true, others = static.iloc[:, 1 : 1 + model.REGIONS], static.iloc[:, 1 + model.REGIONS :]
    assert (true.sum(1) == 1).all()
    assert (others.sum(1) == 1).all()
    assert true.sum().tolist() == others.sum().tolist()
    assert 0.05 < (true.to_numpy().argmax(1) == others.to_numpy().argmax(1)).mean() < 0.4, "others at random"


def forecaster(model, arm):
    names = [f"s{number}" for number in range(2 * model.REGIONS)]
    network = model.Forecaster(
        h=5, input_size=4, stat_exog_list=names, encoder_hidden_size=8, decoder_hidden_size=8, encoder_n_layers=1,
        random_seed=3, accelerator="cpu",
    )  # fmt: skip
    network.arm = model.ARMS[arm]
    model.attach(network.hist_encoder, network.arm.state(network.hist_encoder))
    return network


SEES = {  # the true regions, and those of another country
    "zeros": (False, False),
    "learned state": (False, False),
    "state from the region": (True, False),
    "region at every step": (True, False),
    "state and every step": (True, False),
    "state from another's region": (False, True),
}


@pytest.mark.parametrize("arm", SEES)
def test_a_forecaster_sees_what_its_arm_says(model, arm):
    network = forecaster(model, arm)
    batch = {"insample_y": torch.rand(3, 4, 1), "hist_exog": None, "futr_exog": None}
    static = torch.rand(3, 2 * model.REGIONS)
    hidden = {**batch, "stat_exog": torch.zeros_like(static)}
    if not network.arm.every_step:  # before training as neuralforecast's own, without covariates
        wanted = model.LSTM.forward(network, hidden) if arm == "zeros" else forecaster(model, "zeros")(hidden)
        assert torch.equal(network({**batch, "stat_exog": static}), wanted)
    for parameter in network.hist_encoder.initial_state.parameters():
        nn.init.normal_(parameter)
    before = network({**batch, "stat_exog": static})
    for half, seen in enumerate(SEES[arm]):
        changed = static.clone()
        changed[:, half * model.REGIONS] += 1.0
        assert (not torch.equal(network({**batch, "stat_exog": changed}), before)) == seen

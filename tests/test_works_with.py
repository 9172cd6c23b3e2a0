"""docs/works-with.md is true: every recipe runs, with the version that the table names or a later one."""

import copy
import pickle
import re
import sys
import types
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tests import fresh
from tests.networks import tensors_of

from contextual_rnn import remove_initial_state

PAGE = (Path(__file__).parents[1] / "docs" / "works-with.md").read_text()
MODULES = {
    "deepsi": "deepSI",
    "flash-linear-attention": "fla",
    "minGRU-pytorch": "minGRU_pytorch",
    "s5-pytorch": "s5",
    "stable-baselines3-contrib": "sb3_contrib",
    "pytorch-forecasting": "pytorch_forecasting",
}
ROWS = dict(re.findall(r"^\| \[([\w-]+)\]\(#[\w-]+\) \| ([\d.]+) \|", PAGE, re.MULTILINE))
LIGHT = ("ncps", "torchrecurrent", "snntorch", "minGRU-pytorch", "s5-pytorch")


def run(package):
    """The variables after the recipe of a package."""
    module = MODULES.get(package, package)
    pytest.importorskip(module, reason="comes with `make install`" if package in LIGHT else "`make integrations`")
    assert [
        *map(int, version("sb3-contrib" if package == "stable-baselines3-contrib" else package).split(".")[:3])
    ] >= [*map(int, ROWS[package].split("."))]
    section = PAGE[PAGE.index(f"\n## {package}\n") :].split("\n## ")[1]
    recipe = types.ModuleType("recipe")
    sys.modules["recipe"] = recipe  # where pickle looks for the classes and functions of the recipe
    scope = vars(recipe)
    torch.manual_seed(0)
    exec(
        compile("\n".join(re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)), package, "exec"),
        scope,
    )
    return scope


def test_every_row_has_a_recipe_and_every_recipe_a_row():
    assert list(ROWS) == re.findall(r"^## ([\w-]+)$", PAGE, re.MULTILINE)
    assert len(ROWS) == len([name for name in globals() if name.startswith("test_with_")])


def test_with_ncps():
    scope = run("ncps")
    assert scope["output"].shape == (8, 12, 4)
    assert scope["state"].shape == (8, 16)


def test_with_torchrecurrent():
    assert run("torchrecurrent")["output"].shape == (8, 12, 16)


def test_with_snntorch():
    spikes = torch.stack(run("snntorch")["spikes"])
    assert spikes.shape == (12, 8, 16)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}


def test_with_mingru_pytorch():
    scope = run("minGRU-pytorch")
    assert scope["h"].shape == (8, 1, 3)
    assert bool((scope["h"] > 0).all())
    assert scope["network"](scope["x"], -torch.ones(8, 1, 3)).isnan().all(), "a negative state has become harmless"
    with pytest.raises(ValueError, match="hx: expected leaf 'h' of positive numbers, got -1 to -1"):
        scope["model"](scope["x"], -torch.ones(8, 1, 3))


def test_with_s5_pytorch():
    scope = run("s5-pytorch")
    assert scope["output"].shape == (8, 12, 3)
    assert scope["state"].dtype == torch.complex64


@pytest.mark.filterwarnings("ignore")
def test_with_norse():
    scope = run("norse")
    assert set(scope["spikes"].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(scope["spikes"], scope["neurons"](scope["currents"])[0])
    scope["state"].v.sum().backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in scope["model"].initial_state.heads.layers.values())


@pytest.mark.filterwarnings("ignore")
def test_with_xlstm():
    scope = run("xlstm")
    assert scope["output"].shape == (8, 12, 16)
    assert list(scope["state"]) == ["block_0", "block_1"]
    scope["output"].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in scope["model"].initial_state.net.parameters())


def test_with_flash_linear_attention():
    if find_spec("fla") is None:
        pytest.skip("`make integrations`")
    code = """
import warnings

warnings.simplefilter("ignore")
import tests.fla_on_cpu  # before the package
from tests.test_works_with import run

scope = run("flash-linear-attention")
scope["output"].sum().backward()
print(all(parameter.grad.any() for parameter in scope["model"].initial_state.parameters()))
"""
    assert fresh.run(code, TRITON_INTERPRET="1").stdout.splitlines()[-1] == "True"


@pytest.mark.filterwarnings("ignore")
def test_with_torchrl():
    scope = run("torchrl")
    data, learned, recurrent = scope["data"], scope["learned"], scope["recurrent"]
    begins = data["is_init"][..., 0]
    assert begins[:, 0].all()
    assert begins[:, 1:].any(), "no episode ended"
    torch.testing.assert_close(learned, data["features"], rtol=0, atol=1e-6)
    state = recurrent.model.initial_state(data["observation"][begins])
    first, _ = recurrent.model.network(data["observation"][begins][:, None], state)
    torch.testing.assert_close(data["features"][begins], first[:, 0], rtol=0, atol=1e-6)
    learned.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in recurrent.model.initial_state.parameters())


@pytest.mark.filterwarnings("ignore")
def test_with_stable_baselines3_contrib():
    scope = run("stable-baselines3-contrib")
    policy = scope["agent"].policy
    heads = policy.lstm_actor.initial_state.heads.layers
    assert all(layer.weight.abs().sum() > 0 for layer in heads.values())  # they started at zero
    lstm, (rows, steps) = policy.lstm_actor, (3, 7)
    features, starts = torch.randn(rows, steps, lstm.input_size), (torch.rand(rows, steps) < 0.3).float()
    state = tuple(torch.randn(1, rows, lstm.hidden_size) for _ in range(2))
    whole, final = policy._process_sequence(features.flatten(0, 1), state, starts.flatten(), lstm)
    outputs = []
    for step in range(steps):
        output, state = policy._process_sequence(features[:, step], state, starts[:, step], lstm)
        outputs.append(output)
    torch.testing.assert_close(whole, torch.stack(outputs, 1).flatten(0, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(final, state, rtol=0, atol=1e-6)


def assert_attached(model, call, network, loss_of):
    """Before training to the bit as without a state; it trains, is copied and loaded."""
    torch.manual_seed(1)
    wanted = call(model)
    plain = copy.deepcopy(model)
    remove_initial_state(plain)
    torch.manual_seed(1)
    assert all(map(torch.equal, tensors_of(call(plain)), tensors_of(wanted)))
    optimizer = torch.optim.Adam(network(model).initial_state.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        torch.manual_seed(1)
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    torch.manual_seed(1)
    wanted = call(model)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    assert all(map(torch.equal, tensors_of(call(other)), tensors_of(wanted)))
    torch.manual_seed(1)
    assert not all(map(torch.equal, tensors_of(call(plain)), tensors_of(wanted)))


@pytest.mark.filterwarnings("ignore")
def test_with_gluonts():
    model = run("gluonts")["model"].eval()
    model.num_parallel_samples = 5
    spec = model.describe_inputs(6)
    batch = {
        name: torch.zeros(shape, dtype=torch.int64) if spec.dtypes[name] == torch.int64 else torch.rand(shape)
        for name, shape in spec.shapes.items()
    }
    target = torch.rand(6, 4)

    def loss_of(model):
        return model.loss(**batch, future_target=target, future_observed_values=torch.ones(6, 4)).mean()

    def call(model):
        with torch.no_grad():
            return model(**batch), loss_of(model)

    assert_attached(model, call, lambda model: model.rnn, loss_of)


@pytest.mark.filterwarnings("ignore")
def test_with_pytorch_forecasting():
    scope = run("pytorch-forecasting")
    x, _ = next(iter(scope["dataset"].to_dataloader(batch_size=6, shuffle=False)))
    for model in scope["models"]:
        model.train()
        assert_attached(
            model,
            lambda model: model(x)["prediction"].detach(),
            lambda model: model.rnn,
            lambda model: (model(x)["prediction"] - 3.0).square().mean(),
        )


@pytest.mark.filterwarnings("ignore")
def test_with_darts(tmp_path):
    scope = run("darts")
    model, series = scope["model"], {"future_covariates": scope["covariate"], "verbose": False}
    heads = model.model.rnn.initial_state.heads.layers
    assert all(head.weight.abs().sum() > 0 for head in heads.values())  # they started at zero
    expected = scope["forecast"].values()
    model.save(str(tmp_path / "model.pt"))
    saved = scope["RNNModel"].load(str(tmp_path / "model.pt"), trusted=True)
    assert (saved.predict(4, **series).values() == expected).all()
    for module in (copy.deepcopy(model.model), pickle.loads(pickle.dumps(model.model))):
        model.model = module  # darts copies a model without its module
        assert (model.predict(4, **series).values() == expected).all()
    with torch.no_grad():
        for parameter in model.model.rnn.initial_state.heads.parameters():
            parameter.zero_()
    at_zero = model.predict(4, **series).values()
    remove_initial_state(model.model)
    assert (model.predict(4, **series).values() == at_zero).all()
    assert (at_zero != expected).any()


def assert_survives_pickle(model, call):
    torch.manual_seed(1)
    wanted = tensors_of(call(model))
    torch.manual_seed(1)
    assert all(map(torch.equal, tensors_of(call(pickle.loads(pickle.dumps(model)))), wanted))


@pytest.mark.filterwarnings("ignore")
def test_with_neuralforecast():
    model = run("neuralforecast")["model"].eval()
    batch = {"insample_y": torch.rand(6, 12, 1), "stat_exog": torch.randn(6, 2), "hist_exog": None, "futr_exog": None}
    target = torch.rand(6, 4, 1)

    def call(model):
        return model(batch)

    assert_attached(
        model, call, lambda model: model.hist_encoder, lambda model: (model(batch) - target).square().mean()
    )
    assert_survives_pickle(model, call)


@pytest.mark.filterwarnings("ignore")
def test_with_neuralhydrology():
    model = run("neuralhydrology")["model"].eval()
    data, target = {"x_d": {"rain": torch.rand(6, 12, 1)}, "x_s": torch.randn(6, 2)}, torch.rand(6, 12, 1)

    def call(model):
        return model(data)["y_hat"]

    assert_attached(model, call, lambda model: model.lstm, lambda model: (call(model) - target).square().mean())
    assert_survives_pickle(model, call)


def test_with_deepsi():
    scope = run("deepsi")
    model, past = scope["model"], (scope["upast"], scope["ypast"])
    assert all(p.grad.abs().sum() > 0 for p in model.encoder.parameters())
    assert not torch.equal(model.encoder(*past), model.encoder(*past))  # drawn in training
    model.eval()
    expected = model(*past, scope["ufuture"])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(*past, scope["ufuture"]), expected)
    torch.testing.assert_close(model.forward_simple(*past, scope["ufuture"]), expected)


def test_with_skorch(tmp_path):
    scope = run("skorch")
    regressor, given = scope["regressor"], {"x": scope["x"], "static": scope["static"]}
    losses = regressor.history[:, "train_loss"]
    assert losses[-1] < losses[0]
    regressor.save_params(f_params=tmp_path / "params.pt")
    other = type(regressor)(scope["Forecaster"]).initialize()
    other.load_params(f_params=tmp_path / "params.pt")
    assert (other.predict(given) == scope["predicted"]).all()
    moved = regressor.predict({**given, "static": given["static"] + 1})
    assert (moved != scope["predicted"]).all()


def test_with_torchdiffeq():
    scope = run("torchdiffeq")
    assert torch.equal(scope["path"][0], scope["z0"](scope["context"]))
    assert all(p.grad.abs().sum() > 0 for p in scope["z0"].parameters())


@pytest.mark.filterwarnings("ignore")
def test_with_torchcde():
    scope = run("torchcde")
    torch.testing.assert_close(scope["path"][:, 0], scope["z0"](scope["context"]))
    assert all(p.grad.abs().sum() > 0 for p in scope["z0"].parameters())

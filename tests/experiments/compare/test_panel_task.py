"""The task of a table: every arm predicts, learns and is tested; what each arm may see, and what it may not."""

import dataclasses
import gc
import json
import math

import numpy
import pyarrow as pa
import pytest
import torch
from tests.experiments.compare.small import small_plan

from contextual_rnn.experiments.compare.planted import COLUMNS, WINDOW, planted_table
from contextual_rnn.experiments.config import ARMS, PanelConfig
from contextual_rnn.experiments.panels import Batch, Columns
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.tasks.networks import NETWORKS
from contextual_rnn.experiments.tasks.panel import DRAWS, crps, data_of, parts_of, predicted
from contextual_rnn.experiments.tasks.panel_model import PanelModel
from contextual_rnn.experiments.tasks.registry import build_task


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_plan(tmp_path_factory.mktemp("table")).base


@pytest.fixture(scope="module")
def batch(config):
    data = data_of(config)
    return data.batch(data.train)


def changed(batch, **values):
    return dataclasses.replace(batch, **values)


def shuffled(values):
    return values.roll(1, 0)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_trained_and_keeps_its_best_epoch(arm, config):
    training = Training(dataclasses.replace(config, state=arm))
    first = training.task.evaluate(False)["validation_error"]
    errors = [first]
    for step in range(60):
        training.step(step)
        errors.append(training.task.evaluate(False)["validation_error"])
    best = training.task.evaluate(True)
    assert best["validation_error"] == min(errors) < first
    assert best["best_epoch"] == errors.index(min(errors))
    assert training.task.evaluate(False)["validation_error"] == pytest.approx(min(errors))  # its weights are back
    tested = training.task.test()
    assert tested.errors.shape == (8, 8)
    assert tested.errors.isfinite().all()
    assert len(set(tested.series)) == 8


def test_examples_of_a_large_table_are_made_when_they_are_used(config, monkeypatch):
    config = dataclasses.replace(config, state="context")
    whole, (generator, index) = build_task(config), (torch.Generator(), torch.arange(5))
    monkeypatch.setattr("contextual_rnn.experiments.tasks.panel.WHOLE", 0)
    parts = build_task(config)
    parts.model.load_state_dict(whole.model.state_dict())
    assert not [value for value in gc.get_referents(*vars(parts).values()) if isinstance(value, Batch)]
    assert parts.evaluate(False) == whole.evaluate(False)
    assert torch.equal(parts.loss((index,), generator), whole.loss((index,), generator))


def test_a_long_series_does_not_pad_many_short_ones(tmp_path, monkeypatch):
    lengths = numpy.array([3, 5, 2, 4, 90, 3, 2, 5, 4, 3] * 6)
    series = numpy.repeat(numpy.arange(len(lengths)), lengths)
    numbers = {name: numpy.random.default_rng(0).normal(size=len(series)) for name in "xy"}
    table = pa.table({"series": series, "context": numpy.cos(series), **numbers})
    columns = Columns("y", "series", inputs=("x",), context=("context",))
    config = small_plan(tmp_path, table=table, columns=columns).base
    task, expected = build_task(config), []
    examples = task._data.test
    for limit in (10**6, 200):
        monkeypatch.setattr("contextual_rnn.experiments.tasks.panel.PADDED", limit)
        parts = parts_of(examples, config.state)
        assert numpy.concatenate([part.series for part in parts]).tolist() == examples.series.tolist()
        assert max(len(part) * part.length.max() for part in parts) <= limit
        drawn = parts_of(examples, "normal")
        assert max(len(part) * part.length.max() * DRAWS for part in drawn if len(part) > 1) <= limit
        expected.append((len(parts), task.test().errors, build_task(config).evaluate(False)["validation_error"]))
    (one, errors, error), (several, errors_of_parts, error_of_parts) = expected
    assert one == 1 < several
    torch.testing.assert_close(errors, errors_of_parts, equal_nan=True)
    assert error == pytest.approx(error_of_parts)


def test_a_long_series_is_diagnosed_beside_few_others_and_without_a_hook_of_the_network(config, monkeypatch):
    task, run, sizes = build_task(dataclasses.replace(config, state="context")), PanelModel.forward, []

    def watched(self, batch, *args):
        assert not self.rnn.network._forward_hooks
        sizes.append(len(batch.lengths))
        return run(self, batch, *args)

    monkeypatch.setattr(PanelModel, "forward", watched)
    assert task.diagnose().half_life > 0
    whole = set(sizes)
    longest = int(data_of(config).validation.length.max())
    monkeypatch.setattr("contextual_rnn.experiments.tasks.panel.DIAGNOSED_STEPS", 3 * longest)
    sizes.clear()
    assert task.diagnose().influence is not None
    assert (len(whole), set(sizes)) == (1, {3})
    assert whole.pop() > 3
    assert not task.model.model.rnn._forward_hooks


@pytest.mark.parametrize("arm", ["context", "normal"])
def test_stopped_within_a_run_it_goes_on_to_the_same_bytes(arm, config, tmp_path):
    config = dataclasses.replace(config, state=arm)
    once = train(config, tmp_path / "once")
    for stop in (3, 14, 1):  # steps until it is stopped, and begun again
        left = iter([False] * stop + [True])
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "often", checkpoint_seconds=0, interrupted=lambda left=left: next(left))
    often = train(config, tmp_path / "often")
    assert often.result["final"] == once.result["final"]
    assert (often.folder / "weights.safetensors").read_bytes() == (once.folder / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("arm", ["context_window", "every_step", "burn_in"])
def test_every_network_takes_every_arm(arm, network, config, batch):
    model = PanelModel(dataclasses.replace(config, state=arm, network=network), data_of(config).encoding)
    assert model(batch).shape == batch.target.shape


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_sees_what_it_should_and_nothing_else(arm, config, batch):
    torch.manual_seed(0)
    model = PanelModel(dataclasses.replace(config, state=arm), data_of(config).encoding).eval()
    for parameter in model.parameters():  # contextual states begin as zeros
        torch.nn.init.normal_(parameter)
    alone = model(batch)
    other_target = changed(batch, target=shuffled(batch.target), observed=~batch.observed)
    assert torch.equal(model(other_target), alone)
    past_inputs, past_target = batch.window.tensor_split([1], 2)
    sees = {
        "context": changed(batch, context={"z": shuffled(batch.context["z"])}),
        "past inputs": changed(batch, window=torch.cat([shuffled(past_inputs), past_target], 2)),
        "past target": changed(batch, window=torch.cat([past_inputs, shuffled(past_target)], 2)),
        "inputs": changed(batch, inputs=shuffled(batch.inputs)),
    }
    everything = {"context", "past inputs", "past target", "inputs"}
    expected = {
        "zero": {"inputs"},
        "free": {"inputs"},
        "burn_in": {"inputs", "past inputs"},
        "context": {"inputs", "context"},
        "every_step": {"inputs", "context"},
        "window": everything - {"context"},
    }.get(arm, everything)
    assert {name for name, other in sees.items() if not torch.equal(model(other), alone)} == expected


def test_a_later_input_changes_no_earlier_prediction(config, batch):
    later = batch.inputs.clone()
    later[:, 5:] += 1
    for arm in ARMS:
        model = PanelModel(dataclasses.replace(config, state=arm), data_of(config).encoding).eval()
        assert torch.equal(model(changed(batch, inputs=later))[:, :5], model(batch)[:, :5])


def test_burn_in_is_the_network_run_over_window_and_example(tmp_path):
    columns = dataclasses.replace(COLUMNS, inputs=("x", "y"))  # the target before is an input
    config = dataclasses.replace(small_plan(tmp_path, columns=columns).base, state="burn_in")
    data = data_of(config)
    model, batch = PanelModel(config, data.encoding), data.batch(data.train)
    seen = []
    model.rnn.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.rnn.backend = "auto"
    model(batch)
    before, after = seen[0].tensor_split([WINDOW], 1)
    assert torch.equal(after, batch.inputs)
    assert torch.equal(before[..., :1], batch.window[..., :1])
    assert torch.equal(before[:, 1:, 1:], batch.window[:, :-1, 1:])  # a step late
    assert before[:, 0, 1:].tolist() == [[0.0, 1.0]] * len(before)  # not known


def test_arms_of_a_seed_begin_with_the_same_network(config):
    models = [build_task(dataclasses.replace(config, state=arm)).model.model for arm in ("zero", "free", "context")]
    for name in ("rnn.network.weight_hh_l0", "readout.weight"):
        assert torch.equal(models[0].get_parameter(name), models[1].get_parameter(name))
        assert torch.equal(models[0].get_parameter(name), models[2].get_parameter(name))


def test_a_contextual_arm_begins_as_zero(config, batch):
    zero, context = (build_task(dataclasses.replace(config, state=arm)).model.model for arm in ("zero", "context"))
    torch.testing.assert_close(zero(batch), context(batch))


def ragged_table(target):
    """Series of 6, 7 and 8 steps, a missing target here and there."""
    rng = numpy.random.default_rng(0)
    lengths = [6 + index % 3 for index in range(30)]
    rows = sum(lengths)
    values = {"step": rng.normal(size=rows).tolist(), "class": rng.choice(["a", "b", "c"], rows).tolist()}
    series = numpy.repeat(numpy.arange(30), lengths)
    column = values.get(target)
    if column is None:  # one value a series
        per_series = rng.normal(size=30) if target == "number of a series" else rng.choice(["a", "b"], 30)
        column = per_series[series].tolist()
    else:
        column[3] = column[20] = None
    step = numpy.concatenate([numpy.arange(length) for length in lengths])
    return pa.table({"s": series, "t": step, "x": rng.normal(size=rows), "z": rng.normal(size=30)[series], "y": column})


RAGGED = Columns("y", "s", "t", inputs=("x",), context=("z",))


@pytest.mark.parametrize("arm", ["zero", "context", "normal"])
@pytest.mark.parametrize("target", ["step", "class", "number of a series", "class of a series"])
def test_every_kind_of_target_is_learned(arm, target, tmp_path):
    config = small_plan(tmp_path, columns=RAGGED, table=ragged_table(target), units=(8,)).base
    training = Training(dataclasses.replace(config, state=arm))
    data = data_of(config)
    batch, index = data.batch(data.train), torch.arange(len(data.train))
    generator = torch.Generator().manual_seed(0)
    first = training.task.loss((index,), generator).item()
    for step in range(150):
        training.step(step)
    assert training.task.loss((index,), generator).item() < first
    tested = training.task.test()
    assert tested.errors.shape[1] == (8 if data.target.per == "step" else 1)
    assert math.isfinite(tested.errors.nanmean())
    prediction, draws = predicted(training.task.model.model, batch)
    classes = (len(data.target.classes),) if data.target.kind == "category" else ()
    assert prediction.shape == (*batch.target.shape, *classes)
    assert (draws is None) == (arm != "normal")


def test_missing_targets_do_not_count(tmp_path):
    config = small_plan(tmp_path, columns=RAGGED, table=ragged_table("step")).base
    task = build_task(config)
    data = data_of(config)
    index = torch.arange(len(data.train))
    batch = data.batch(data.train)
    known = batch.observed
    assert not known.all()
    expected = (task.model.model(batch) - batch.target)[known].square().mean()
    assert task.loss((index,), torch.Generator()).item() == pytest.approx(expected.item())


def test_crps_is_that_of_every_pair_of_draws():
    draws, target = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    pairs = sum((draws[:, i] - draws[:, j]).abs() for i in range(5) for j in range(5)) / (2 * 5 * 4)
    torch.testing.assert_close(crps(draws, target), (draws - target[:, None]).abs().mean(1) - pairs)


def test_the_loss_of_a_distribution_is_least_for_the_true_spread():
    """Of draws N(0, s), the mean CRPS of targets N(0, 1) is least at s = 1."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(20_000, generator=generator)
    draws = torch.randn(20_000, 2, generator=generator)
    means = {scale: crps(scale * draws, target).mean().item() for scale in (0.5, 1.0, 1.5)}
    assert min(means, key=means.get) == 1.0


def test_an_own_network_from_a_file(tmp_path, config, batch):
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\ndef stacked(i, units):\n    return nn.GRU(i, units, 2, batch_first=True)\n")
    own = dataclasses.replace(config, network=f"{path}:stacked", state="context")
    model = PanelModel(own, data_of(config).encoding)
    assert model.rnn.network.num_layers == 2
    assert model(batch).shape == batch.target.shape
    path.write_text("from torch import nn\nstacked = 3\ndef late(i, units):\n    return nn.GRU(i, units)\n")
    with pytest.raises(ValueError, match="network: expected a function stacked"):
        PanelModel(own, data_of(config).encoding)
    with pytest.raises(ValueError, match="network: expected one with batch_first=True"):
        PanelModel(dataclasses.replace(own, network=f"{path}:late"), data_of(config).encoding)
    with pytest.raises(ValueError, match="network: expected a Python file that runs"):
        PanelModel(dataclasses.replace(own, network="nowhere.py:late"), data_of(config).encoding)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "transformer"}, "network: expected lstm, gru, rnn, fast_weights or FILE.py:NAME"),
        ({"samples": 1}, "samples: expected a number of at least 2"),
        ({"units": 0}, "units: expected a number of at least 1"),
        ({"device": "cuda"}, "device: expected cpu"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PanelConfig(**options)


def test_a_run_without_a_table_is_refused():
    with pytest.raises(ValueError, match="panel: expected what contextual-rnn compare writes"):
        build_task(PanelConfig())
    with pytest.raises(ValueError, match="panel: expected what contextual-rnn compare writes"):
        build_task(PanelConfig(panel=json.dumps({"table": []})))


def test_planted_starts_explain_their_share_of_the_first_step():
    for share in (0.2, 0.5):
        table = planted_table("context", share, series=4000, steps=2, seed=0)
        first = table["step"].to_numpy() == WINDOW
        y, z = table["y"].to_numpy()[first], table["z"].to_numpy()[first]
        assert numpy.corrcoef(y, z)[0, 1] ** 2 == pytest.approx(share, abs=0.03)
    table = planted_table("nothing", 0.5, series=4000, steps=2, seed=0)
    first = table["step"].to_numpy() == WINDOW
    y, z = table["y"].to_numpy()[first], table["z"].to_numpy()[first]
    assert y.var() == pytest.approx(2.0, abs=0.15)
    assert numpy.corrcoef(y, z)[0, 1] ** 2 < 0.005

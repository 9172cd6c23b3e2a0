"""Training on a GPU: the steps of the CPU's kind, captured; refused in time where there is none.

What needs a GPU is skipped without one: `pytest tests/experiments/test_device.py` on a machine that has one.
"""

import contextlib
import dataclasses
import functools
import math
import types

import pytest
import torch
from torch import nn

from contextual_rnn.experiments.cli.main import main
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.runs import trainer as training_steps
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.runs.weights import load_model
from contextual_rnn.experiments.sweeps.stack import side_by_side
from contextual_rnn.experiments.tasks.retrieval import one_hot_product
from contextual_rnn.experiments.training.cuda_graph import CapturedStep
from contextual_rnn.experiments.training.data_parallel import Group
from contextual_rnn.experiments.training.flat_adam import FlatAdam
from contextual_rnn.experiments.training.seeding import generator_for, seed_for

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")

# The last batch of an epoch is a smaller one.
RETRIEVAL = {"train_samples": 300, "validation_samples": 50, "batch_size": 128, "epochs": 2, "device": "cuda"}
DECAY = {"samples_per_period": 20, "units": 16, "batch_size": 64, "epochs": 2, "device": "cuda"}
CONFIGS = {
    "zero": RetrievalConfig(**RETRIEVAL, state="zero"),
    "ba2016": RetrievalConfig(**RETRIEVAL, state="free", timing="ba2016", inner_steps=2),
    "context": RetrievalConfig(**RETRIEVAL, state="context", leaves="h+a"),
    "normal": RetrievalConfig(**RETRIEVAL, state="normal"),
    "lstm": RetrievalConfig(**RETRIEVAL, network="lstm"),
    "decay": DecayConfig(**DECAY, kl_weight=1e-3),
}


def test_a_gpu_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device: expected cpu where there is no GPU that torch can use, got cuda"):
        train(CONFIGS["zero"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="device: expected cpu for a run on 2 processes, got cuda"):
        train(CONFIGS["zero"], tmp_path / "run", group=Group(0, 2))
    with pytest.raises(ValueError, match="device: expected one of cpu, cuda, got 'gpu'"):
        RetrievalConfig(device="gpu")


def test_the_command_refuses_a_gpu_that_there_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "retrieval", "--device", "cuda", "--out", str(tmp_path / "run")]) == 1
    assert "device: expected cpu where there is no GPU" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_skipped_step_changes_nothing(clip_norm):
    torch.manual_seed(0)
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    plain, told = (FlatAdam(model, clip_norm) for model in models)
    for number in range(3):
        for model, flat in zip(models, (plain, told), strict=True):
            flat.differentiate((model.weight * (number + 1)).square().sum() + model.bias.sum())
        plain.step(0.1)
        told.step(torch.tensor(0.1), torch.tensor(0.0))
        before = [tensor.clone() for tensor in (*told.parameters, *told.state.values())]
        told.gradient.fill_(torch.nan)
        told.step(torch.tensor(0.1), torch.tensor(1.0))
        for tensor, kept, wanted in zip(
            (*told.parameters, *told.state.values()), before, (*plain.parameters, *plain.state.values()), strict=True
        ):
            assert torch.equal(tensor, kept)
            torch.testing.assert_close(tensor, wanted)
    assert plain.state["step"] == told.state["step"] == 3


def test_a_lookup_by_a_product_is_an_embedding():
    tokens, weight = torch.randint(7, (3, 4), generator=generator_for("test")), torch.randn(7, 5, requires_grad=True)
    wanted, found = nn.functional.embedding(tokens, weight), one_hot_product(tokens, weight)
    assert torch.equal(found, wanted)
    cotangent = torch.randn(3, 4, 5)
    grads = (torch.autograd.grad(value, weight, cotangent)[0] for value in (found, wanted))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", ["zero", "ba2016", "context", "normal"])
def test_tokens_and_states_computed_once_each_are_those_of_every_sequence(name):
    config = dataclasses.replace(CONFIGS[name], device="cpu")
    model, found = training_steps.build_task(config).model.double(), []
    tokens, cotangents = training_steps.build_task(config).training[0], generator_for("test")
    for once in (False, True):
        logits = model(tokens, generator_for("states"), once=once)
        cotangent = torch.randn(logits.shape, generator=cotangents.manual_seed(0), dtype=logits.dtype)
        found.append([logits, *torch.autograd.grad(logits, list(model.parameters()), cotangent)])
    for value, wanted in zip(*found, strict=True):
        torch.testing.assert_close(value, wanted)


def graphs_of_a_cpu(monkeypatch):
    """CUDA graphs that do once more what they have captured."""
    step, capturing = CapturedStep._step, []

    class Graph:
        def register_generator_state(self, generator): ...

        def replay(self):
            self.again()

    @contextlib.contextmanager
    def graph(made, **_):
        capturing.append(made)
        yield
        capturing.pop()

    def seen(self, batch, *, still=False):
        loss = step(self, batch, still=still or bool(capturing))
        if capturing:
            capturing[-1].again = lambda: loss.copy_(step(self, batch))
        return loss

    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(CapturedStep, "_step", seen)
    fakes = {"CUDAGraph": Graph, "graph": graph, "Stream": lambda: stream, "current_stream": lambda: stream}
    for name, fake in (fakes | {"stream": contextlib.nullcontext}).items():
        monkeypatch.setattr(torch.cuda, name, fake)


@pytest.mark.parametrize("name", CONFIGS)
def test_replayed_steps_are_steps(name, monkeypatch):
    """All but the capture itself: batches of two sizes, seeds, step sizes, a warm-up that changes nothing."""
    graphs_of_a_cpu(monkeypatch)
    config = dataclasses.replace(CONFIGS[name], device="cpu")
    captured, apart = Training(config), Training(config)
    captured._captured = CapturedStep(captured.task, captured.optimizer)
    steps = range(2 * captured.batches.per_epoch - 1)
    wanted = [differentiated_apart(apart, k) for k in steps]
    assert [captured.step(k) for k in steps] == pytest.approx(wanted, rel=1e-5)
    for tensor_name, tensor in captured.tensors().items():
        torch.testing.assert_close(tensor, apart.tensors()[tensor_name], rtol=1e-3, atol=1e-5, msg=tensor_name)
    before = {tensor_name: tensor.clone() for tensor_name, tensor in captured.tensors().items()}
    kept = captured.task.model.readout.bias.detach().clone()
    with torch.no_grad():
        captured.task.model.readout.bias.fill_(torch.nan)
    assert math.isnan(captured.step(0))
    with torch.no_grad():
        captured.task.model.readout.bias.copy_(kept)
    assert all(torch.equal(tensor, before[tensor_name]) for tensor_name, tensor in captured.tensors().items())


def differentiated_apart(training, k):
    """What a captured step does, one operation after the other."""
    device = training.optimizer.gradient.device
    generator = generator_for("states", training.config.seed, k, device=device)
    loss = training.task.loss(training.batches[k], generator)
    training.optimizer.differentiate(loss)
    training.optimizer.step(training.config.learning_rate)
    return loss.item()


@gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_captured_steps_are_steps(name):
    captured, apart, again = (Training(CONFIGS[name]) for _ in range(3))
    steps = 2 * captured.batches.per_epoch - 1
    assert len(captured.batches[captured.batches.per_epoch - 1][0]) < captured.config.batch_size
    losses = [captured.step(k) for k in range(steps)]
    assert losses == pytest.approx([differentiated_apart(apart, k) for k in range(steps)], rel=1e-5)
    for tensor_name, tensor in captured.tensors().items():
        torch.testing.assert_close(tensor, apart.tensors()[tensor_name], rtol=1e-3, atol=1e-5, msg=tensor_name)
    # Interrupted after two steps, with its bytes carried over by way of the CPU.
    first = Training(CONFIGS[name])
    for k in range(2):
        first.step(k)
    again.restore({tensor_name: tensor.cpu() for tensor_name, tensor in first.tensors().items()})
    assert [again.step(k) for k in range(2, steps)] == losses[2:]
    for tensor_name, tensor in captured.tensors().items():
        assert torch.equal(tensor, again.tensors()[tensor_name]), tensor_name


@gpu
@pytest.mark.parametrize("name", ["zero", "decay"])
def test_a_loss_that_is_not_finite_changes_nothing(name):
    training = Training(CONFIGS[name])
    training.step(0)
    before = {tensor_name: tensor.clone() for tensor_name, tensor in training.tensors().items()}
    weight = next(iter(training.task.model.parameters()))
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    assert math.isnan(training.step(1))
    with torch.no_grad():
        weight.copy_(kept)
    assert all(torch.equal(tensor, before[tensor_name]) for tensor_name, tensor in training.tensors().items())
    assert math.isfinite(training.step(1))


@gpu
def test_states_are_drawn_anew_for_every_batch_and_the_same_every_time():
    training = Training(CONFIGS["normal"])
    captured = training._captured
    assert captured is not None
    batch, seeds = training.batches[0], [seed_for("states", k) for k in (0, 1, 0)]
    losses = [captured(batch, seed, 0.0) for seed in seeds]
    assert losses[0] == losses[2] != losses[1]


@gpu
def test_seeds_side_by_side_are_the_seeds_alone():
    """One captures while another one trains."""
    configs = [dataclasses.replace(CONFIGS["normal"], seed=seed) for seed in range(4)]

    def trained(config):
        training = Training(config)
        return [training.step(k) for k in range(5)]

    assert side_by_side(1, [functools.partial(trained, config) for config in configs]) == list(map(trained, configs))


@gpu
@pytest.mark.parametrize("name", ["context", "decay"])
def test_a_run_on_a_gpu_is_whole(name, tmp_path):
    run = train(CONFIGS[name], tmp_path, checkpoint_seconds=0)
    assert run.converged
    assert all(math.isfinite(value) for line in run.metrics for value in line.values())
    model, trained = load_model(run), training_steps.build_task(run.config).model
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert any(not torch.equal(*pair) for pair in zip(model.parameters(), trained.parameters(), strict=True))

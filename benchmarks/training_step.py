"""One whole training step of the retrieval model (forward, backward, Adam), ours and three peers'.

All start from the same weights and see the same batches. Ours and the peers but JAX read the loss every step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import peers
from benchmarks.size import CAPTURED, COMPILED, EAGER, FUSED, JAX, PLAIN, TRAIN, Cell, Size
from benchmarks.timing import Contender, interleave
from contextual_rnn import ContextState, FastWeightsRNN, sequence_cross_entropy
from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.runs.trainer import Training
from contextual_rnn.experiments.tasks.registry import build_task
from contextual_rnn.experiments.tasks.retrieval import EMBEDDING_SIZE, RetrievalModel
from contextual_rnn.experiments.training.batches import Batches
from contextual_rnn.experiments.training.flat_adam import FlatAdam
from contextual_rnn.layers.fast_weights import fast_weights_spec

EPOCH = 50  # batches that every contender goes through in a circle; JAX gets them in one call
CHECKED = 10  # steps of training that the gate compares
RANK = 4
# float32 sums over a batch come in another order, and a unit at the kink of its ReLU may fall on either side: one of
# the 70,000 terms of a gradient. A wrong term anywhere shows at a hundredth and more.
TOLERANCE = 1e-3

Batch = tuple[Tensor, Tensor]
Gradients = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trainer:
    """`gradients(batch)` are loss and gradients by parameter; `run(n)` trains n steps and returns their losses."""

    gradients: Callable[[Batch], tuple[float, Gradients]]
    run: Callable[[int], list[float]]
    multiple: int = 1


def training_step(size: Size, names: Iterable[str], seconds: float) -> Cell:
    """Check that the contenders named agree, then time them."""
    trainers = {name: TRAINERS[name](size) for name in names}
    check(size, trainers)
    return Cell("training step", size, _interleave(trainers, seconds))


def low_rank_step(size: Size, seconds: float) -> Cell:
    """Ours with a low-rank A(0) from the context, beside ours with a zero state."""
    low_rank = replace(size, initial="low rank")
    trainers = {}
    for name in (TRAIN, FUSED, PLAIN):
        check(size, zero := {name: TRAINERS[name](size)})
        check(low_rank, ranked := {name: TRAINERS[name](low_rank)})
        trainers |= {name: zero[name], f"{name}, rank {RANK}": ranked[name]}
    return Cell("training step", low_rank, _interleave(trainers, seconds))


def check(size: Size, trainers: dict[str, Trainer]) -> None:
    """Raise AssertionError unless loss, gradients and the losses of training agree with the explicit A in float64."""
    expected = _plain(size, "reference", torch.float64)
    batch = batches(size)[0]
    loss, grads = expected.gradients(batch)
    losses = expected.run(CHECKED)
    for name, trainer in trainers.items():
        found_loss, found_grads = trainer.gradients(batch)
        assert found_grads.keys() == grads.keys(), f"{name}: parameters {found_grads.keys() ^ grads.keys()}"
        _assert_close(f"{name}: loss", np.array(found_loss), np.array(loss))
        for parameter, grad in grads.items():
            _assert_close(f"{name}: gradient of {parameter}", found_grads[parameter], grad)
        steps = trainer.multiple * -(-CHECKED // trainer.multiple)
        _assert_close(f"{name}: losses in training", np.array(trainer.run(steps)[:CHECKED]), np.array(losses))


def batches(size: Size) -> list[Batch]:
    """The first `EPOCH` batches of a run: (B, T) and (B,)."""
    config = _config(size)
    data = tuple(tensor.to(size.device) for tensor in build_task(config).training)
    order = Batches(config.seed, data, config.batch_size)
    return [(tokens, targets) for tokens, targets in map(order.__getitem__, range(EPOCH))]


def as_train_runs_it(size: Size, backend: str = "auto") -> Trainer:
    training = Training(_config(size))
    model = training.task.model
    assert isinstance(model, RetrievalModel)
    _network(model).backend = backend
    if _set_initial_state(size, model):
        training.optimizer = FlatAdam(model)
    counter, generator = itertools.count(), torch.Generator()

    def gradients(batch: Batch) -> tuple[float, Gradients]:
        loss = training.task.differentiate(batch, generator, training.optimizer)
        return loss, {name: training.optimizer.grad(p).clone().cpu().numpy() for name, p in model.named_parameters()}

    return Trainer(gradients, lambda steps: [training.step(next(counter)) for _ in range(steps)])


def fused(size: Size) -> Trainer:
    module = _AsUsersWriteIt(_model(size))
    return _with_adam(dict(module.named_parameters()), lambda _, *batch: module.loss(*batch), batches(size), fused=True)


def plain(size: Size) -> Trainer:
    return _plain(size, "auto")


def eager(size: Size) -> Trainer:
    return _plain(size, "reference")


def captured(size: Size) -> Trainer:
    return as_train_runs_it(size, "reference")


def compiled(size: Size) -> Trainer:
    # What was compiled before must not count against a limit, nor make shapes dynamic, which costs speed.
    torch._dynamo.reset()
    loss_of = torch.compile(peers.retrieval_loss, fullgraph=True, dynamic=False)
    return _with_adam(dict(_model(size).named_parameters()), loss_of, batches(size), fused=True)


def xla(size: Size) -> Trainer:
    import jax.numpy as jnp

    from benchmarks import jax_peer

    parameters = {name: jnp.array(value.detach().numpy()) for name, value in _model(size).named_parameters()}
    tokens, targets = (jnp.array(torch.stack(part).int().numpy()) for part in zip(*batches(size), strict=True))
    zeros = ({name: jnp.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    state = [({name: value.copy() for name, value in parameters.items()}, *zeros, jnp.zeros(()))]
    learning_rate = _config(size).learning_rate

    def gradients(batch: Batch) -> tuple[float, Gradients]:
        loss, grads = jax_peer.loss_and_gradients(parameters, *(jnp.array(part.int().numpy()) for part in batch))
        return float(loss), {name: np.asarray(grad) for name, grad in grads.items()}

    def run(steps: int) -> list[float]:
        losses = []
        for _ in range(steps // EPOCH):
            state[0], some = jax_peer.train(state[0], tokens, targets, learning_rate)
            losses += np.asarray(some).tolist()
        return losses

    return Trainer(gradients, run, multiple=EPOCH)


TRAINERS: dict[str, Callable[[Size], Trainer]] = {
    TRAIN: as_train_runs_it,
    FUSED: fused,
    PLAIN: plain,
    EAGER: eager,
    CAPTURED: captured,
    COMPILED: compiled,
    JAX: xla,
}


class _AsUsersWriteIt(nn.Module):
    """The retrieval model with nothing computed more cleverly than a user of the library would."""

    def __init__(self, model: RetrievalModel):
        super().__init__()
        self.embedding, self.rnn, self.hidden, self.readout = model.embedding, model.rnn, model.hidden, model.readout

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        output, _ = self.rnn(embedded, context=embedded[:, 0])
        return self.readout(torch.relu(self.hidden(output[:, -1])))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        rnn = self.rnn
        assert isinstance(rnn.network, FastWeightsRNN)
        state = rnn.initial_state
        hx = state(self.embedding(tokens[:, 0])) if state.reads_context else None  # nobody hands over zeros
        return sequence_cross_entropy(tokens, targets, self.embedding, rnn.network, self.hidden, self.readout, hx)


def _plain(size: Size, backend: str, dtype: torch.dtype = torch.float32) -> Trainer:
    model = _model(size)
    _network(model).backend = backend
    module = _AsUsersWriteIt(model).to(dtype)

    def loss_of(_: object, tokens: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(module(tokens), targets)

    return _with_adam(dict(module.named_parameters()), loss_of, batches(size), fused=backend == "auto")


def _with_adam(
    parameters: dict[str, nn.Parameter], loss_of: Callable[..., Tensor], data: list[Batch], *, fused: bool
) -> Trainer:
    # Where it is not fused nothing is asked for: what public implementations do.
    optimizer = torch.optim.Adam(parameters.values(), lr=RetrievalConfig.learning_rate, fused=fused or None)
    counter = itertools.count()

    def run(steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(parameters, *data[next(counter) % len(data)])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return Trainer(lambda batch: _gradients(loss_of(parameters, *batch), parameters), run)


def _gradients(loss: Tensor, parameters: dict[str, nn.Parameter]) -> tuple[float, Gradients]:
    grads = torch.autograd.grad(loss, list(parameters.values()))
    return loss.item(), {name: grad.cpu().numpy() for name, grad in zip(parameters, grads, strict=True)}


def _config(size: Size) -> RetrievalConfig:
    context = size.initial == "dense"
    return RetrievalConfig(
        state="context" if context else "zero",
        leaves="h+a" if context else "h",
        pairs=(size.steps - 3) // 2,
        units=size.units,
        batch_size=size.batch,
        threads=size.threads,
        device=size.device,
        train_samples=2 * EPOCH * size.batch,  # no smaller last batch, which torch.compile would compile again
        validation_samples=1,
    )


def _model(size: Size) -> RetrievalModel:
    model = build_task(_config(size)).model
    assert isinstance(model, RetrievalModel)
    _set_initial_state(size, model)
    return model.to(size.device)


def _set_initial_state(size: Size, model: nn.Module) -> bool:
    """Give `model` the state that no configuration names; returns whether it did."""
    if size.initial != "low rank":
        return False
    assert isinstance(model, RetrievalModel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = fast_weights_spec(_network(model), "low_rank", RANK)
        model.rnn.initial_state = ContextState(spec, nn.Identity(), features=EMBEDDING_SIZE)
    return True


def _network(model: RetrievalModel) -> FastWeightsRNN:
    network = model.rnn.network
    assert isinstance(network, FastWeightsRNN)
    return network


def _interleave(trainers: dict[str, Trainer], seconds: float) -> dict[str, list[float]]:
    contenders = {name: Contender(trainer.run, trainer.multiple) for name, trainer in trainers.items()}
    return interleave(contenders, seconds)


def _assert_close(what: str, found: np.ndarray, expected: np.ndarray) -> None:
    atol = TOLERANCE * float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, equal_nan=False, err_msg=what)

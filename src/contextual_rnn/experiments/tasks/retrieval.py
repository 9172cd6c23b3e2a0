"""Associative retrieval (paper, section 2.2.1; Ba et al. 2016): data, model, task. c9k8j3f1??k -> 8."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn import ContextualRNN, FastWeightsRNN, StateSpec, state_spec
from contextual_rnn.diagnostics import Diagnosis, diagnose
from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.tasks.retrieval_step import LETTERS, RetrievalStep
from contextual_rnn.experiments.tasks.states import initial_state
from contextual_rnn.experiments.training.data_parallel import states_of_share
from contextual_rnn.experiments.training.flat_adam import FlatAdam
from contextual_rnn.experiments.training.seeding import generator_for
from contextual_rnn.experiments.training.task import Task, Tested
from contextual_rnn.layers.fast_weights import fast_weights_spec
from contextual_rnn.spec.tree import State
from contextual_rnn.states import InitialState, NormalState

TOKENS = string.ascii_lowercase + string.digits + "?"
DIGIT_0 = TOKENS.index("0")
EMBEDDING_SIZE = 100
EVALUATION_BATCH, EVALUATION_BATCH_OF_A_GPU = 500, 20_000
DIAGNOSED = 200  # sequences of a diagnosis


def retrieval_data(
    num_samples: int, pairs: int, *, letters: int = 26, modified: bool = False, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sequences (N, 2 K + 3) and target tokens (N,), as indices into `TOKENS`.

    K different letters of the first `letters`, each followed by a digit (all letters, then all digits, where
    `modified`), then ?? and one of the K letters; the target is its digit. Raises ValueError for K > letters.
    """
    if not 1 <= pairs <= letters:
        raise ValueError(f"pairs: expected 1 to {letters}, the letters there are, got {pairs}")
    source: dict[str, Any] = {"generator": generator, "device": generator.device}
    keys = torch.rand(num_samples, letters, **source).argsort(dim=1)[:, :pairs]
    values = DIGIT_0 + torch.randint(10, (num_samples, pairs), **source)
    asked = torch.randint(pairs, (num_samples, 1), **source)
    body = torch.cat([keys, values], dim=1) if modified else torch.stack([keys, values], dim=2).flatten(1)
    marks = torch.full_like(values[:, :1], TOKENS.index("?")).expand(-1, 2)
    return torch.cat([body, marks, keys.gather(1, asked)], dim=1), values.gather(1, asked)[:, 0]


class RetrievalModel(nn.Module):
    """Embedding, fast-weights network, 100 ReLU units and a softmax over all tokens on the last step.

    The context is the embedding of the first character, the context network one linear layer a leaf. The controls of
    the configuration (another network, a shuffled context, the context at every step) are ours, not the paper's.
    """

    def __init__(self, config: RetrievalConfig):
        super().__init__()
        self.shuffled_context, self.context_input = config.shuffled_context, config.context_input
        self.embedding = nn.Embedding(len(TOKENS), EMBEDDING_SIZE)
        self.rnn = _network_and_state(config)
        self.hidden = nn.Linear(config.units, config.readout_units)
        self.readout = nn.Linear(config.readout_units, len(TOKENS))
        _start_as_the_authors(self, config)

    def forward(
        self,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        rows: slice | None = None,
        *,
        once: bool = False,
    ) -> Tensor:
        """Logits over tokens, (B, 37), for sequences (B, T) that start with a letter, or for some rows of them.

        With `once`, the projection of a token and the state of a letter are computed once for all that have it.
        """
        if rows is None and self._projects_tokens(once):
            output = self._recur_over_table(tokens, self._states(tokens, generator, once))
        else:
            context = self.embed(self.context_token(tokens))
            inputs, hx = self.embed(tokens), None
            if self.context_input:
                inputs = torch.cat([inputs, context[:, None].expand_as(inputs)], dim=2)
            if rows is not None:
                inputs, hx = inputs[rows], states_of_share(self.rnn.initial_state, context, rows, generator)
            output, _ = self.rnn(inputs, hx, context=context, generator=generator)
        return self.readout(torch.relu(self.hidden(output[:, -1])))

    def embed(self, tokens: Tensor) -> Tensor:
        """The embeddings of tokens of any shape."""
        return rows_by_index(tokens, self.embedding.weight)

    def initial_states(self, tokens: Tensor, generator: torch.Generator | None) -> tuple[State, Tensor | None]:
        """Initial states, and the index of each sequence's own where sequences share them, else None."""
        state = self.rnn.initial_state
        if not state.reads_context:
            return state(batch_size=len(tokens), generator=generator), None
        first = self.context_token(tokens)
        if isinstance(state, NormalState):  # drawn anew for every sequence
            return state(self.embed(first), generator=generator), None
        return state(self.embedding.weight[:LETTERS]), first

    def _states(self, tokens: Tensor, generator: torch.Generator | None, once: bool) -> State:
        state = self.rnn.initial_state
        if not once:
            return state(self.embed(self.context_token(tokens)), len(tokens), generator=generator)
        states, index = self.initial_states(tokens, generator)
        return states if index is None else state.spec.take(states, index)

    def _projects_tokens(self, once: bool) -> bool:
        """Whether each token is projected once: where asked, and on a GPU; `RetrievalStep` of a CPU does so itself."""
        wanted = once or self.embedding.weight.is_cuda
        return wanted and isinstance(self.rnn.network, FastWeightsRNN) and not self.context_input

    def _recur_over_table(self, tokens: Tensor, state: State) -> Tensor:
        network = self.rnn.network
        assert isinstance(network, FastWeightsRNN)
        table = functional.linear(self.embedding.weight, network.weight_ih, network.bias)
        return network.recur(rows_by_index(tokens, table), state)[0]

    def context_token(self, tokens: Tensor) -> Tensor:
        """The token of each sequence (B, T) whose embedding is its context."""
        return tokens[:, 0].roll(1) if self.shuffled_context else tokens[:, 0]


def rows_by_index(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of `weight` (N, F) by index, (*shape, F).

    On a GPU as a product: the derivative of a lookup sorts tokens there, a quarter of a step of many sequences.
    """
    return one_hot_product(tokens, weight) if weight.is_cuda else functional.embedding(tokens, weight)


def one_hot_product(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of `weight` (N, F) by index, (*shape, F), as a product of matrices."""
    return (tokens[..., None] == torch.arange(len(weight), device=weight.device)).to(weight.dtype) @ weight


def _network_and_state(config: RetrievalConfig) -> ContextualRNN:
    input_size = EMBEDDING_SIZE * (2 if config.context_input else 1)
    if config.network == "lstm":
        network = nn.LSTM(input_size, config.units, batch_first=True)
        return ContextualRNN(network, _state(config, state_spec(network)))
    network = FastWeightsRNN(
        input_size,
        config.units,
        inner_steps=config.inner_steps,
        decay=config.decay,
        rate=config.rate,
        layer_norm=config.layer_norm,
        elementwise_affine=not config.uses_authors_choice("norm"),
        timing=config.timing,
        batch_first=True,
    )
    spec = fast_weights_spec(network, "dense" if config.leaves == "h+a" else "zero")
    return ContextualRNN(network, _state(config, spec))


def _state(config: RetrievalConfig, spec: StateSpec) -> InitialState:
    return initial_state(config.state, spec, nn.Identity, features=EMBEDDING_SIZE)


@torch.no_grad()
def _start_as_the_authors(model: RetrievalModel, config: RetrievalConfig) -> None:
    """The start of the authors' published code; docs/evidence.md describes its effect.

    `switched` takes a single ingredient from the other start.
    """
    network = model.rnn.network
    if not isinstance(network, FastWeightsRNN):
        return
    if config.uses_authors_choice("embedding"):
        nn.init.zeros_(model.embedding.weight)
    if config.uses_authors_choice("weights"):
        for weight in (network.weight_hh, network.weight_ih):
            nn.init.eye_(weight).mul_(0.05)
    if config.uses_authors_choice("bias") and network.bias is not None:
        bound = (3 / network.hidden_size) ** 0.5  # Glorot's bound for a vector: 0.245 at 50 units
        nn.init.uniform_(network.bias, -bound, bound)
    if config.uses_authors_choice("readout"):
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)


class RetrievalTask(Task[RetrievalModel]):
    """Cross entropy on the last step; validation log-likelihood in nats a sequence, and accuracy."""

    draws_globally = False

    def __init__(self, config: RetrievalConfig):
        self._config = config
        self.training = self._data("training", config.train_samples)
        self.validation = self._data("validation", config.validation_samples)
        self.model = RetrievalModel(config)
        self._step: RetrievalStep | None = None

    def _data(self, split: str, num_samples: int) -> tuple[Tensor, Tensor]:
        return self._drawn(num_samples, generator_for("retrieval", split, self._config.data_seed))

    def _drawn(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        config = self._config
        return retrieval_data(
            num_samples, config.pairs, letters=config.letters, modified=config.modified, generator=generator
        )

    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice | None = None) -> Tensor:
        sequences, targets = batch
        return functional.cross_entropy(self.model(sequences, generator, rows), targets[rows or slice(None)])

    def differentiate(
        self, batch: tuple[Tensor, ...], generator: torch.Generator, optimizer: FlatAdam, rows: slice | None = None
    ) -> float:
        if rows is None and (self._step is None or self._step.optimizer is not optimizer):
            self._step = RetrievalStep(self.model, optimizer) if RetrievalStep.serves(self.model, batch) else None
        if self._step is None:
            return super().differentiate(batch, generator, optimizer, rows)
        tokens, targets = batch
        return self._step(tokens, targets, generator)

    @torch.inference_mode()
    def evaluate(self, final: bool) -> dict[str, float]:
        """On the validation set; in the end also on as many test sequences, on which no choice was based."""
        self.model.eval()
        metrics = self._metrics("validation", self.validation)
        if final:
            tokens, targets = self._data("test", self._config.validation_samples)
            device = self.validation[0].device
            metrics |= self._metrics("test", (tokens.to(device), targets.to(device)))
        self.model.train()
        return metrics

    @torch.no_grad()
    def test(self) -> Tested:
        """Cross entropy of as many test sequences as there are for validation, in nats."""
        self.model.eval()
        parts = self._logits(*self._data("test", self._config.validation_samples))
        errors = torch.cat([functional.cross_entropy(logits, target, reduction="none") for logits, target in parts])
        return Tested(errors, [str(index) for index in range(len(errors))])

    def diagnose(self) -> Diagnosis:
        """Of the cross entropy of the retrieved digit, in nats."""
        tokens, targets = self._drawn(DIAGNOSED, generator_for("diagnostics", "retrieval"))
        return diagnose(self.model, lambda: functional.cross_entropy(self.model(tokens), targets, reduction="none"))

    def _metrics(self, split: str, data: tuple[Tensor, ...]) -> dict[str, float]:
        log_likelihood = correct = 0.0
        for logits, target in self._logits(*data):
            log_likelihood -= functional.cross_entropy(logits, target, reduction="sum").item()
            correct += (logits.argmax(dim=1) == target).sum().item()
        return {f"{split}_log_likelihood": log_likelihood / len(data[1]), f"{split}_accuracy": correct / len(data[1])}

    def _logits(self, sequences: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of parts of the sequences, each with its targets."""
        size = EVALUATION_BATCH_OF_A_GPU if targets.is_cuda else EVALUATION_BATCH
        for tokens, target in zip(sequences.split(size), targets.split(size), strict=True):
            yield self.model(tokens, once=True), target

"""Associative retrieval (paper, section 2.2.1; Ba et al. 2016): data, model, task. c9k8j3f1??k -> 8."""

from __future__ import annotations

import string

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn import ConstantState, ContextState, ContextualRNN, FastWeightsRNN, FreeState, NormalState
from contextual_rnn._tree import State
from contextual_rnn.experiments.batches import generator_for
from contextual_rnn.experiments.config import RetrievalConfig
from contextual_rnn.experiments.task import Task
from contextual_rnn.fast_weights import fast_weights_spec
from contextual_rnn.initial_state import InitialState

TOKENS = string.ascii_lowercase + string.digits + "?"
DIGIT_0 = TOKENS.index("0")
EMBEDDING_SIZE = 100
READOUT_UNITS = 100
EVALUATION_BATCH = 500


def retrieval_data(
    num_samples: int, pairs: int, *, letters: int = 26, modified: bool = False, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sequences (N, 2 K + 3) and target tokens (N,), as indices into `TOKENS`.

    K different letters of the first `letters`, each followed by a digit (all letters, then all digits, where
    `modified`), then ?? and one of the K letters; the target is its digit. Raises ValueError for K > letters.
    """
    if not 1 <= pairs <= letters:
        raise ValueError(f"pairs: expected 1 to {letters}, the letters there are, got {pairs}")
    keys = torch.rand(num_samples, letters, generator=generator).argsort(dim=1)[:, :pairs]
    values = DIGIT_0 + torch.randint(10, (num_samples, pairs), generator=generator)
    asked = torch.randint(pairs, (num_samples, 1), generator=generator)
    body = torch.cat([keys, values], dim=1) if modified else torch.stack([keys, values], dim=2).flatten(1)
    marks = torch.full((num_samples, 2), TOKENS.index("?"))
    return torch.cat([body, marks, keys.gather(1, asked)], dim=1), values.gather(1, asked)[:, 0]


class RetrievalModel(nn.Module):
    """Embedding, fast-weights network, 100 ReLU units and a softmax over all tokens on the last step.

    The context is the embedding of the first character, the context network one linear layer a leaf.
    """

    def __init__(self, config: RetrievalConfig):
        super().__init__()
        authors = config.start == "wenke2019"
        self.embedding = nn.Embedding(len(TOKENS), EMBEDDING_SIZE)
        network = FastWeightsRNN(
            EMBEDDING_SIZE,
            config.units,
            inner_steps=config.inner_steps,
            layer_norm=config.layer_norm,
            elementwise_affine=not authors,
            timing=config.timing,
            batch_first=True,
        )
        self.rnn = ContextualRNN(network, _initial_state(config, network))
        self.hidden = nn.Linear(config.units, READOUT_UNITS)
        self.readout = nn.Linear(READOUT_UNITS, len(TOKENS))
        if authors:
            _start_as_the_authors(self)

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits over tokens, (B, 37), for sequences (B, T) that start with a letter.

        The numbers of `self.rnn(embedded, context=embedded[:, 0])`, with what depends on a token alone computed once
        a token: there are 37 of them, and 1,408 in a batch.
        """
        network = self.rnn.network
        assert isinstance(network, FastWeightsRNN)
        table = network.project(self.embedding.weight)
        projected = table.index_select(0, tokens.flatten()).view(*tokens.shape, -1)
        output, _ = network.recur(projected, self._state(tokens[:, 0], generator))
        return self.readout(torch.relu(self.hidden(output[:, -1])))

    def _state(self, first: Tensor, generator: torch.Generator | None) -> State:
        initial_state = self.rnn.initial_state
        if not initial_state.reads_context:
            return initial_state(batch_size=len(first), generator=generator)
        if isinstance(initial_state, NormalState):  # drawn anew for every row
            return initial_state(self.embedding(first), generator=generator)
        leaves = initial_state.spec.unpack(initial_state(self.embedding.weight[: len(string.ascii_lowercase)]))
        return initial_state.spec.pack({name: leaf.index_select(0, first) for name, leaf in leaves.items()})


def _initial_state(config: RetrievalConfig, network: FastWeightsRNN) -> InitialState:
    spec = fast_weights_spec(network, "dense" if config.leaves == "h+a" else "zero")
    return {
        "zero": lambda: ConstantState(spec),
        "free": lambda: FreeState(spec),
        "context": lambda: ContextState(spec, nn.Identity(), features=EMBEDDING_SIZE),
        "normal": lambda: NormalState(spec, nn.Identity(), features=EMBEDDING_SIZE),
    }[config.state]()


@torch.no_grad()
def _start_as_the_authors(model: RetrievalModel) -> None:
    """The start of the authors' published code, as facts about it: see the README on what it does to the result."""
    network = model.rnn.network
    assert isinstance(network, FastWeightsRNN)
    nn.init.zeros_(model.embedding.weight)
    for weight in (network.weight_hh, network.weight_ih):
        nn.init.eye_(weight).mul_(0.05)
    if network.bias is not None:
        bound = (3 / network.hidden_size) ** 0.5  # Glorot's bound for a vector: 0.245 at 50 units
        nn.init.uniform_(network.bias, -bound, bound)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


class RetrievalTask(Task[RetrievalModel]):
    """Cross entropy on the last step; validation log-likelihood in nats a sequence, and accuracy."""

    def __init__(self, config: RetrievalConfig):
        def data(split: str, num_samples: int) -> tuple[Tensor, Tensor]:
            generator = generator_for("retrieval", split, config.data_seed)
            return retrieval_data(
                num_samples, config.pairs, letters=config.letters, modified=config.modified, generator=generator
            )

        self.training = data("training", config.train_samples)
        self.validation = data("validation", config.validation_samples)
        self.model = RetrievalModel(config)

    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        sequences, targets = batch
        return functional.cross_entropy(self.model(sequences, generator), targets)

    @torch.inference_mode()
    def evaluate(self, final: bool) -> dict[str, float]:
        self.model.eval()
        log_likelihood = correct = 0.0
        sequences, targets = self.validation
        for tokens, target in zip(sequences.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
            logits = self.model(tokens)
            log_likelihood -= functional.cross_entropy(logits, target, reduction="sum").item()
            correct += (logits.argmax(dim=1) == target).sum().item()
        self.model.train()
        return {
            "validation_log_likelihood": log_likelihood / len(targets),
            "validation_accuracy": correct / len(targets),
        }

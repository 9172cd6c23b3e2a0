"""Random choices that a seed repeats, and the valid subjects that calls are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from tests.networks import INPUT_SIZE, NETWORKS, SPECS, make_input
from torch import Tensor, nn

import contextual_rnn as ours
from contextual_rnn import InitialState, StateSpec

Choice = TypeVar("Choice")
CONTEXT_SIZE = 2


class Draw:
    """A source of random numbers, Python's and torch's, from one seed."""

    def __init__(self, seed: str):
        self.random = random.Random(seed)
        torch.manual_seed(self.random.getrandbits(62))

    def choose(self, choices: Sequence[Choice]) -> Choice:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def some(self, **options: Any) -> dict[str, Any]:
        """A random part of the options."""
        return {name: value for name, value in options.items() if self.chance(0.5)}

    def generator(self) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(self.random.getrandbits(32))


def context_net(features: int = 6) -> ours.ContextNet:
    """A context network for a dict of every kind of feature."""
    kinds = {
        "crop": ours.Categorical(["rye", "oats"], unknown=True),
        "rain": ours.Continuous(20.0, 5.0),
        "soils": ours.SetValued(["clay", "sand"]),
    }
    return ours.ContextNet(kinds, features, embedding_dim=3)


def rows_of(d: Draw, batch: int) -> dict[str, Any]:
    """Raw values for `context_net`."""
    return {
        "crop": [d.choose(["rye", "oats", "hops"]) for _ in range(batch)],
        "rain": [20.0 + 5 * d.random.random() for _ in range(batch)],
        "soils": [d.choose([[], ["clay"], {"sand", "clay"}]) for _ in range(batch)],
    }


def linear_context(d: Draw, batch: int | None) -> Tensor:
    return torch.randn(*(() if batch is None else (batch,)), CONTEXT_SIZE)


def encoded_context(d: Draw, batch: int | None) -> dict[str, Tensor]:
    encoded = context_net().encode(rows_of(d, batch or 1))
    return encoded if batch is not None else {name: value[0] for name, value in encoded.items()}


def index_context(d: Draw, batch: int | None) -> Tensor:
    return torch.randint(4, () if batch is None else (batch,))


def no_context(d: Draw, batch: int | None) -> None:
    return None


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[Draw, int | None], Any]]] = {
    "linear": (lambda: nn.Linear(CONTEXT_SIZE, 6), linear_context),
    "sequential": (lambda: nn.Sequential(nn.Linear(CONTEXT_SIZE, 6), nn.Tanh(), nn.Dropout(0.1)), linear_context),
    "embedding": (lambda: nn.Embedding(4, 6), index_context),
    "context net": (context_net, encoded_context),
}


@dataclass
class Subject:
    """A network, an initial state for it and contexts that the state takes."""

    network: nn.Module
    spec: StateSpec
    state: InitialState
    kind: str
    new_context: Callable[[Draw, int | None], Any]

    def batch(self, d: Draw) -> int:
        return d.choose([1, 2, 3, 3])


def network_and_spec(d: Draw, names: Sequence[str] | None = None) -> tuple[nn.Module, StateSpec]:
    kind, spec = SPECS[d.choose(list(names or SPECS))]
    network = NETWORKS[kind]()
    return network, spec(network)


KINDS = (
    "constant", "free", "noisy free", "error free", "context", "zero context", "normal", "scaled normal",
    "free normal", "leafwise", "sum", "dropout", "latent",
)  # fmt: skip


def initial_state(d: Draw, spec: StateSpec, kind: str, make_net: Callable[[], nn.Module]) -> InitialState:
    """A state of a kind; those without a context make no net."""
    if kind == "constant":
        return ours.ConstantState(spec, d.choose([0.0, 0.5]))
    if kind in ("free", "noisy free", "error free"):
        options = {"free": {}, "noisy free": {"noise": 0.1}, "error free": {"noise": 0.1, "error_decay": 0.9}}[kind]
        return ours.FreeState(spec, value=0.25, **options)
    if kind == "context":
        return ours.ContextState(spec, make_net(), features=d.choose([None, 6]))
    if kind == "zero context":
        return ours.ContextState(spec, make_net(), zero_init=True, activation=torch.tanh)
    if kind == "normal":
        return ours.NormalState(spec, make_net(), d.choose([0.25, 1.0]), min_scale=d.choose([0.0, 0.1]))
    if kind == "scaled normal":
        return ours.NormalState(spec, make_net(), scale_from_context=True)
    if kind == "free normal":
        return ours.NormalState(spec, ours.FreeState(spec, value=0.25))
    if kind == "latent":
        return ours.LatentState(spec, make_net(), d.choose([1, 3]), min_scale=d.choose([0.0, 0.1]))
    parts = ["constant", "noisy free", "context", "normal"]
    if kind == "leafwise":
        each = {leaf.name: initial_state(d, spec[leaf.name], d.choose(parts), make_net) for leaf in spec}
        return ours.LeafwiseState(spec, **each)
    if kind == "sum":
        return ours.SumState([initial_state(d, spec, d.choose(parts), make_net) for _ in range(2)], [0.3, 0.7])
    state = initial_state(d, spec, "normal" if "noisy" in kind else d.choose(["context", "normal"]), make_net)
    return ours.ContextDropout(state, d.choose([0.0, 0.5]), guidance=d.choose([0.0, 1.0, 1.5]))


def subject(d: Draw, kinds: Sequence[str] = KINDS, networks: Sequence[str] | None = None) -> Subject:
    network, spec = network_and_spec(d, networks)
    make_net, new_context = NETS[d.choose(list(NETS))]
    kind = d.choose(kinds)
    state = initial_state(d, spec, kind, make_net).train(d.chance(0.5))
    reads = state.reads_context
    return Subject(network, spec, state, kind, new_context if reads else no_context)


def inputs_of(d: Draw, network: nn.Module, batch: int | None, steps: int = 4) -> Tensor:
    return make_input(network, batch, steps)


def random_state(spec: StateSpec, batch: int | None) -> Any:
    """A state of random numbers as the network takes it."""
    lead = () if batch is None else (batch,)
    return spec.pack({leaf.name: torch.randn(*lead, *leaf.shape) for leaf in spec})


__all__ = ["CONTEXT_SIZE", "INPUT_SIZE", "KINDS", "NETS", "Draw", "Subject", "subject"]

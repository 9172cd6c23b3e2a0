"""The models of the deployment matrix: every state over every kind of network; a new one joins by one line."""

from __future__ import annotations

import itertools

import torch
from tests.networks import make, make_input
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextState, ContextualRNN, FreeState, NormalState

STATES = {
    "constant": lambda spec: ConstantState(spec, 0.3),
    "free": lambda spec: FreeState(spec, noise=0.1, value=0.3),
    "context": lambda spec: ContextState(spec, nn.Sequential(nn.Linear(2, 6), nn.Tanh())),
    "normal": lambda spec: NormalState(spec, nn.Sequential(nn.Linear(2, 6), nn.Tanh())),
}
TORCH = ["rnn", "gru", "lstm"]
DEEP = ["rnn deep both ways", "lstm deep both ways", "lstm projected"]
CELLS = ["rnn cell", "gru cell", "lstm cell", "fast weights cell"]
FAST_WEIGHTS = ["fast weights", "fast weights, dense A", "fast weights, low-rank A"]
NETWORKS = [*TORCH, *DEEP, *CELLS, *FAST_WEIGHTS]
CASES = [f"{state} {network}" for state, network in itertools.product(STATES, NETWORKS)]


def build(case: str) -> ContextualRNN:
    """The model of a case, such as "context lstm", with random parameters: no two units alike."""
    state, _, network = case.partition(" ")
    network, spec = make(network)
    torch.manual_seed(1)
    initial_state = STATES[state](spec)
    with torch.no_grad():
        for tensor in itertools.chain(initial_state.parameters(), initial_state.buffers()):
            tensor.add_(torch.randn_like(tensor), alpha=0.3)
    return ContextualRNN(network, initial_state)


def inputs_for(model: ContextualRNN, batch: int, steps: int = 4) -> tuple[Tensor, Tensor]:
    """Random inputs in the network's layout, and contexts."""
    return make_input(model.network, batch, steps), torch.randn(batch, 2)
